//go:build unix

package docs_test

// row says what becomes of a block of commands in a document when the documents
// are tried (make test-docs). A block that is run is run as it is, by
// `bash -euo pipefail` at the top of a clone, and has to end with status 0.
type row struct {
	document string // path from the top of the tree
	begins   string // its first line, or all

	not string // it is not run, for this reason; then nothing else is said

	outside bool // it is run outside of the clone, which it makes
	each    bool // each line is a command of its own
	orders  int  // orders come, change and go meanwhile, the first of this number

	ends        bool   // it ends by itself
	until       string // it does not: it is interrupted when it has printed a line like this,
	endless     string // of each, only those like this do not end
	stays       bool   // or it is left running until the document's end, as in another terminal
	interrupted bool   // it may end as interrupted, as make and go run do whatever they run, and nats does early

	shows  bool     // the block of text that follows in the document is what it prints
	unlike string   // it is not, for this reason
	prints []string // it prints something like that
}

// all, in the place of a first line, names every block of a document.
const all = "*"

const noDocker = "it takes a Docker engine; make image-local builds the Dockerfile without one"

const noKubelet = "there is an API server, and no node that runs pods"

var table = []row{
	{
		document: "README.md", begins: "git clone https://github.com/crbridge/crbridge && cd crbridge",
		outside: true, until: `Making the CRD again\n(.*\n)*.*  updated `, interrupted: true, shows: true,
	},
	{document: "README.md", begins: "make build", until: `flow is running`, stays: true, prints: []string{`orders\.shop\.example\.com`}},
	{document: "README.md", begins: "kubectl apply -f - <<'YAML'", until: `  updated  .*order-0001`, shows: true},
	{document: "README.md", begins: "docker build --build-arg VERSION=$(git describe --tags --always) --build-arg COMMIT=$(git rev-parse HEAD) -t REGISTRY/bridge:TAG .", not: noDocker},
	{document: "README.md", begins: `(echo "config:"; sed 's/^/  /' config.yaml) > values.yaml`, ends: true, prints: []string{`STATUS: deployed`}},
	{document: "README.md", begins: "nats --server nats://127.0.0.1:4222 stream get K8S --last-for 'k8s.demo.shop_example_com.orders.default.order-0001'", ends: true, shows: true},

	{document: "docs/subscribing.md", begins: "bridge tail --config config.yaml                                  # what happens from now on", each: true, orders: 100, until: `  deleted  |"type":"dev\.crbridge\.resource\.`, shows: true},
	{
		document: "docs/subscribing.md", begins: "# What happens from now on", each: true, orders: 200,
		endless: `subscribe`, until: `ce-id: `, interrupted: true,
		prints: []string{`k8s\.demo\.shop_example_com\.orders\.default\.order-0001`, `Subjects in stream K8S`, `Information for Stream K8S`, `Information for Consumer K8S > shop`, `Acknowledged message`},
	},
	{document: "docs/subscribing.md", begins: "cd examples/go && go run . --server nats://127.0.0.1:4222", until: `existing +Order default/order-0001`, interrupted: true},
	{document: "docs/subscribing.md", begins: "cd examples/javascript && npm ci && node subscriber.js --server nats://127.0.0.1:4222", not: "make test-readers runs it, which has Node"},

	{document: "docs/deploy.md", begins: "docker build --build-arg VERSION=$(git describe --tags --always) --build-arg COMMIT=$(git rev-parse HEAD) -t REGISTRY/bridge:TAG .", not: noDocker},
	{document: "docs/deploy.md", begins: "kubectl apply -f deploy/install.yaml -f deploy/configuration.yaml", ends: true, prints: []string{`namespace/crbridge-system (created|configured)`, `deployment\.apps/crbridge created`}},
	{document: "docs/deploy.md", begins: "bridge rbac --config config.yaml | kubectl apply -f -", ends: true, prints: []string{`clusterrole\S+/crbridge (configured|unchanged)`}},
	{document: "docs/deploy.md", begins: "kubectl -n crbridge-system create configmap crbridge --from-file=config.yaml --dry-run=client -o yaml | kubectl apply -f -", ends: true, prints: []string{`configmap/crbridge configured`}},
	{document: "docs/deploy.md", begins: "kubectl create namespace crbridge-system", not: "by now the namespace is there, with what kubectl made; README.md's lines for Helm are run"},
	{document: "docs/deploy.md", begins: "kubectl -n crbridge-system create secret generic nats-users --from-literal=user=bridge --from-file=password", not: "there is no file with a password"},
	{document: "docs/deploy.md", begins: "kubectl get endpointslices -n default -l kubernetes.io/service-name=kubernetes", ends: true}, // an API server on loopback has no endpoints

	{document: "docs/operations.md", begins: `curl -H "Authorization: Bearer $(kubectl create token NAME)" http://127.0.0.1:8080/api/status`, not: "TestAccess makes this request, with tokens"},
	{document: "docs/operations.md", begins: "kubectl -n crbridge-system port-forward deployment/crbridge 8080", not: noKubelet},
	{document: "docs/operations.md", begins: "kubectl -n crbridge-system port-forward service/crbridge 8080 &", not: noKubelet},
	{document: "docs/operations.md", begins: "bridge resync --config config.yaml --route orders", ends: true, shows: true},
	{document: "docs/operations.md", begins: "kubectl -n crbridge-system exec deploy/crbridge -- /bridge resync --config /etc/crbridge/config.yaml --route orders", not: noKubelet},
	{document: "docs/operations.md", begins: "bridge rbac --config config.yaml | kubectl apply -f -", ends: true, prints: []string{`clusterrole\S+/crbridge created`, `rolebinding\S+/crbridge-own created`}},
	{document: "docs/operations.md", begins: "bridge permissions --config config.yaml", ends: true, shows: true},
	{document: "docs/operations.md", begins: "kubectl -n crbridge-system get lease crbridge -o jsonpath='{.spec.holderIdentity}'", not: noKubelet},
	{document: "docs/operations.md", begins: "# What the memory is held by", each: true, ends: true, prints: []string{`Type: inuse_space`, `goroutine \d+ \[`}},
	{document: "docs/operations.md", begins: "# What takes the CPU, for 30 s; with graphs, in the browser", not: "it opens a browser"},

	{document: "docs/configuration.md", begins: "bridge validate --config config.yaml", ends: true},
	{document: "docs/configuration.md", begins: "BRIDGE__LOG__LEVEL=debug BRIDGE__SINKS__MAIN__NATS__URL=nats://127.0.0.1:4222 bridge run --config config.yaml", not: "it takes the flows from the bridge that is running"},
	{document: "docs/configuration.md", begins: "bridge validate --config config.yaml --cluster", ends: true, unlike: "the text is of another file, with mistakes", prints: []string{`ok +route orders +orders\.shop\.example\.com +list, watch: allowed`, `ok +sink main`}},

	{document: "docs/reliability.md", begins: "bridge resync --config config.yaml --route orders", ends: true},
	{document: "docs/reliability.md", begins: "make test                                # all tests; among them 40 faults, 16 with three NATS servers, and five of the bugs", not: ".ci/run runs make test; the others take as long as one likes"},
	{document: "docs/reliability.md", begins: "CRBRIDGE_FAULTS=100 CRBRIDGE_FAULTS_SEED=42 go -C test test -v -count=1 -run 'TestFaults$' ./faults", not: "make test runs these tests, with other numbers"},

	{document: "docs/troubleshooting.md", begins: all, not: "TestTroubleshooting makes what it shows"},

	{document: "docs/releasing.md", begins: all, not: "it builds for four systems, for minutes; .ci/run builds the image, and tests it"},

	{document: "docs/performance.md", begins: all, not: "it measures, for minutes; make bench-smoke runs each of the targets, small"},

	{document: "examples/README.md", begins: "cd examples/go && go run . --server nats://127.0.0.1:25591", until: `existing +Order default/order-0001`, interrupted: true},
	{document: "examples/README.md", begins: "cd examples/javascript && npm ci && node subscriber.js --server nats://127.0.0.1:25591", not: "make test-readers runs it, which has Node"},
}
