# Go is all that is needed; `make help` tells the targets.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# Go compiles in one way for all, so that a package which the servers, the bridge,
# its image and the tests have in common is compiled once.
export CGO_ENABLED ?= 0
export GOFLAGS := $(strip $(filter-out -trimpath,$(shell go env GOFLAGS)) -trimpath)

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
COMMIT  ?= $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)

# The image: its name, for which machines, and what Go is taken from, where it is
# not the Dockerfile's own image: another, or "local", the Go of this machine. It is
# put into IMAGE_DIR.
IMAGE    ?= ghcr.io/crbridge/bridge
ARCH     ?= $(shell go env GOARCH)
GO_IMAGE ?=
IMAGE_DIR ?= bin/image
# What is built of a commit has the commit's time.
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
STAMP = IMAGE='$(IMAGE)' VERSION='$(VERSION)' COMMIT='$(COMMIT)' SOURCE_DATE_EPOCH='$(SOURCE_DATE_EPOCH)' GO_IMAGE='$(GO_IMAGE)'

# Tests of the root module take seconds; those of test/ start real servers.
TEST_TIMEOUT ?= 5m
E2E_TIMEOUT  ?= 25m
# Most of the end-to-end tests wait, most of the time.
E2E_PARALLEL ?= 6
# Inputs, not seconds: go test fails at times where the seconds are over while it
# is at an input ("context deadline exceeded").
FUZZTIME     ?= 10000x
FAULTS       ?= 1000
# Of Go benchmarks: which, how often, and of which packages.
BENCH        ?= .
COUNT        ?= 10
PACKAGES     ?= ./...

# Tools are built from tools/go.mod, in any module: `go -C test $(TOOL) …`.
TOOL := tool -modfile=$(CURDIR)/tools/go.mod
MODULES := . test tools tools/actionlint examples/go $(patsubst %/go.mod,%,$(wildcard test/servers/*/go.mod))

.PHONY: help
help: ## Say what there is
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

.PHONY: build
build: ## Build bin/bridge, with its version in it
	CGO_ENABLED=0 go build -ldflags "$(LDFLAGS)" -o bin/bridge ./cmd/bridge

# Whoever calls methods by names that are known only at run time, as text/template
# and html/template do, has the linker keep every exported method of every type in
# the program. The linker tells of such a caller where it tells what keeps what.
.PHONY: methods-check
methods-check: ## Fail if the linker has to keep methods that nobody calls
	@dir=$$(mktemp -d); trap 'rm -rf "$$dir"' EXIT; \
	CGO_ENABLED=0 go build -ldflags '-s -w -dumpdep' -o "$$dir/bridge" ./cmd/bridge >"$$dir/kept" 2>&1; \
	grep -q '^main\.main -> ' "$$dir/kept" || { echo "make methods-check: the linker does not tell what main.main keeps" >&2; exit 1; }; \
	if grep -- '-> .*<ReflectMethod>' "$$dir/kept" >&2; then \
		echo "make methods-check: these call methods by name, or are kept because something does; the executable has $$(stat -c %s "$$dir/bridge") bytes" >&2; exit 1; \
	fi

.PHONY: image
image: ## Build the image for ARCH (amd64, arm64) with buildah, as IMAGE_DIR/bridge-linux-ARCH.tar
	@$(STAMP) ARCH='$(ARCH)' OUT='$(IMAGE_DIR)' hack/image

.PHONY: image-local
image-local: ## The same with the Go of this machine, where no registry can be reached
	@$(MAKE) image GO_IMAGE=local

.PHONY: release
release: ## Make all that a release of the tag VERSION has, in bin/release; of any tree with SNAPSHOT=1
	@$(STAMP) SNAPSHOT='$(SNAPSHOT)' OUT=bin/release hack/release

.PHONY: image-push
image-push: ## Push the images of bin/release to the registry in IMAGE
	@$(STAMP) OUT=bin/release hack/image-push

.PHONY: generate
generate: ## Make the JSON Schema and the key tables of the configuration anew, from the structs
	go generate ./pkg/config

.PHONY: servers
servers: ## Build kube-apiserver, etcd and nats-server for tests and demo (minutes the first time, then cached)
	@go -C test run ./cmd/servers

.PHONY: commands
commands: ## Build kubectl and Helm for the tests (minutes the first time, then cached)
	@go -C test run ./cmd/servers kubectl helm

.PHONY: chart
chart: ## Lint the Helm chart, and render install.yaml and configuration.yaml in deploy/ from it
	@helm=$$(go -C test run ./cmd/servers helm); \
	"$$helm" lint --strict deploy/chart -f deploy/install.values.yaml; \
	hack/manifests deploy "$$helm" deploy/chart

.PHONY: demo
demo: build servers ## Run the bridge against a real API server and NATS on loopback, until Ctrl-C
	@go -C test build -o $(CURDIR)/bin/demo ./cmd/demo
	@exec bin/demo --bridge $(CURDIR)/bin/bridge

.PHONY: test
test: servers commands ## Run all the tests that need Go alone
	go test $(RACE) -timeout $(TEST_TIMEOUT) ./...
	@echo "compiling the end-to-end tests and what they need"
	@go -C test vet $(RACE) ./...
	@$(MAKE) -j2 test-bridge test-others

# Two that wait, most of the time, so they run side by side; each of them shows
# what it is at (-v, and -p 1, without which go test shows a package's output at
# its end).
.PHONY: test-bridge test-others
test-bridge:
	go -C test test $(RACE) -timeout $(E2E_TIMEOUT) -parallel $(E2E_PARALLEL) -v -count=1 ./e2e
test-others:
	go -C test test $(RACE) -timeout $(E2E_TIMEOUT) -parallel $(E2E_PARALLEL) -v -p 1 -count=1 $$(go -C test list ./... | grep -v /e2e$$)

.PHONY: test-readers
test-readers: servers ## Read events with the JavaScript example (needs Node 20 or newer with npm)
	@command -v npm >/dev/null || { echo "make test-readers: no npm: install Node 20 or newer" >&2; exit 1; }
	npm ci --prefix examples/javascript --no-audit --no-fund
	go -C test test -tags node -timeout $(TEST_TIMEOUT) -v -count=1 -run TestJavaScriptReaders ./e2e

.PHONY: test-release
test-release: image-local ## Look into the image, build it again to compare, and install the bridge as users do
	@$(STAMP) ARCH='$(ARCH)' OUT='$(IMAGE_DIR)' GO_IMAGE=local go -C test test -tags release -timeout $(E2E_TIMEOUT) -v -count=1 ./release

# Builds nats as well, which nothing else needs.
.PHONY: test-docs
test-docs: servers ## Run the commands of the documents, as they are, with real servers, kubectl and nats
	@go -C test run ./cmd/servers kubectl helm nats
	go -C test test -tags docs -timeout $(E2E_TIMEOUT) -v -count=1 ./docs

# Chromium, and axe-core from the npm registry.
.PHONY: browser
browser: servers
	@command -v chromium chromium-browser google-chrome >/dev/null || [ -n "$${CHROMIUM:-}" ] || hack/install chromium fonts-dejavu-core
	@command -v npm >/dev/null || { echo "make test-browser: no npm, which axe-core comes with: install Node" >&2; exit 1; }
	npm ci --prefix test/browser --no-audit --no-fund

.PHONY: test-browser
test-browser: browser ## Look at the status page in Chromium (installs Debian's where there is none; needs npm)
	go -C test test -tags browser -timeout $(E2E_TIMEOUT) -v -count=1 ./browser

.PHONY: screenshots
screenshots: browser ## Make the pictures of the status page in docs/img anew (five minutes)
	mkdir -p docs/img
	SCREENSHOTS=$(CURDIR)/docs/img go -C test test -tags browser -timeout $(E2E_TIMEOUT) -v -count=1 -run TestScreenshots ./browser

.PHONY: test-race
test-race: ## Run the same with the race detector (needs a C compiler)
	@command -v "$$(go env CC)" >/dev/null || { echo "make test-race: no C compiler: $$(go env CC) is not in PATH" >&2; exit 1; }
	@CGO_ENABLED=1 $(MAKE) test RACE=-race

.PHONY: node-packages
node-packages: ## Install the Debian packages that make e2e needs, if they are missing (needs root)
	@test/node/packages.sh

# The packages one after the other, as each has a node of its own; and each by a
# go test of its own, as -p 1 would compile on one core. Of the image there are two
# versions, for an update.
.PHONY: e2e
e2e: ## Run the tests on a real single-node Kubernetes (needs Linux and root)
	@test "$$(id -u)" = 0 || { echo "make e2e: run it as root: a node of Kubernetes makes mounts, namespaces and network links" >&2; exit 1; }
	@$(MAKE) node-packages
	@go -C test run ./cmd/servers kube-apiserver kubelet kube-controller-manager kube-scheduler kubectl etcd nats-server helm
	@for version in one two; do $(MAKE) image-local VERSION=$$version IMAGE_DIR=bin/e2e/$$version; done
	@for package in ./process ./node ./cluster; do \
		echo "go test $$package"; \
		go -C test test -tags cluster -timeout $(E2E_TIMEOUT) -v -count=1 "$$package"; \
	done

.PHONY: lint
lint: ## Run golangci-lint on all the code, and actionlint on the workflows
	go tool -modfile=tools/actionlint/go.mod actionlint -shellcheck= -pyflakes=
	go $(TOOL) golangci-lint config verify
	go $(TOOL) golangci-lint run ./...
	cd test && go $(TOOL) golangci-lint run --build-tags node,docs,browser,release,cluster ./...
	cd examples/go && go $(TOOL) golangci-lint run ./...

.PHONY: fmt
fmt: ## Format all the code
	go $(TOOL) golangci-lint fmt ./...
	cd test && go $(TOOL) golangci-lint fmt ./...
	cd examples/go && go $(TOOL) golangci-lint fmt ./...

# go test takes one fuzz target at a time.
.PHONY: fuzz
fuzz: ## Run every fuzz target with FUZZTIME (10000x) new inputs, or for FUZZTIME (such as 1m)
	@grep -rnoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' cmd pkg | sed -E 's|/[^/]+:[0-9]+:func | |' | sort | \
	while read -r package target; do \
		echo "== $$package $$target"; \
		go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "./$$package"; \
	done

.PHONY: bench
bench: build servers ## Measure the bridge beside its limits and a stock informer, and write it down (half an hour; BENCHFLAGS)
	@go -C test build -o $(CURDIR)/bin/bench ./bench
	@exec bin/bench -bridge $(CURDIR)/bin/bridge -doc $(CURDIR)/docs -check $(BENCHFLAGS)

.PHONY: bench-go
bench-go: ## Run the Go benchmarks of each stage, with allocations
	go test -run '^$$' -bench '$(BENCH)' -benchmem $(BENCHFLAGS) $(PACKAGES)

# The two trees take turns, as a machine is not the same for long.
.PHONY: bench-compare
bench-compare: ## Compare the Go benchmarks with those of the commit OLD (BENCH, COUNT and PACKAGES say which)
	@test -n "$(OLD)" || { echo "make bench-compare: say with which commit, as in OLD=main" >&2; exit 2; }
	@dir=$$(mktemp -d); trap 'git worktree remove --force "$$dir/tree" || true; rm -rf "$$dir"' EXIT; \
	git worktree add --quiet --detach "$$dir/tree" "$(OLD)"; \
	for round in $$(seq $(COUNT)); do \
		echo "round $$round of $(COUNT)" >&2; \
		go -C "$$dir/tree" test -run '^$$' -bench '$(BENCH)' -benchmem $(BENCHFLAGS) $(PACKAGES) >>"$$dir/old"; \
		go test -run '^$$' -bench '$(BENCH)' -benchmem $(BENCHFLAGS) $(PACKAGES) >>"$$dir/here"; \
	done; \
	go $(TOOL) benchstat "$(OLD)=$$dir/old" "here=$$dir/here"

.PHONY: bench-ledger
bench-ledger: ## Measure a ledger of 1,000,000 objects that outlives the process, and 1,000 flows
	@go -C test run ./benchledger $(BENCHFLAGS)

.PHONY: bench-nats
bench-nats: ## Measure the ways to write events to JetStream, on one server and three (some minutes)
	@go -C test run ./benchnats $(BENCHFLAGS)

.PHONY: soak
soak: servers ## Break a bridge and all around it, FAULTS (1000) times, from SEED, with NODES (1) of NATS
	@go -C test run ./cmd/soak -faults $(FAULTS) $(if $(SEED),-seed $(SEED)) $(if $(NODES),-nodes $(NODES))

.PHONY: bugs
bugs: servers ## Show that the fault suite catches every bug that is built in for it (some minutes)
	CRBRIDGE_BUGS=all go -C test test -timeout $(E2E_TIMEOUT) -v -count=1 -run TestBugsAreCaught ./faults

.PHONY: bench-smoke
bench-smoke: ## Run every benchmark once and small, to see that it still runs
	@$(MAKE) bench-go BENCHFLAGS='-benchtime 1x'
	@$(MAKE) bench BENCHFLAGS='-quick -check=false'
	@$(MAKE) bench-ledger BENCHFLAGS='-objects 20000 -flows 100'
	@$(MAKE) bench-nats BENCHFLAGS=-quick

.PHONY: tidy-check
tidy-check: ## Fail if a go.mod or go.sum is not what `go mod tidy` makes
	@for m in $(MODULES); do echo "go mod tidy -diff in $$m"; go -C "$$m" mod tidy -diff; done

.PHONY: clean
clean: ## Remove what was built here (the servers' cache stays)
	rm -rf bin
