package config

// badRows are configurations that have to be refused, each with a reason to be
// here.
var badRows = []badRow{
	{
		reason:  "an empty file has nothing that is required",
		content: "",
		want:    "f:1:1: the file is empty; it needs at least cluster, routes and sinks",
	},
	{
		reason:  "comments are no content",
		content: "# nothing here\n",
		want:    "f:1:1: the file is empty; it needs at least cluster, routes and sinks",
	},
	{
		reason:  "a null document is empty too",
		content: "---\n",
		want:    "f:1:1: the file is empty; it needs at least cluster, routes and sinks",
	},
	{
		reason:  "the document has to be a mapping",
		content: "- cluster: demo\n",
		want:    "f:1:1: a list: not a mapping",
	},
	{
		reason:  "a scalar is no configuration either",
		content: "demo\n",
		want:    `f:1:1: "demo": not a mapping`,
	},
	{
		reason:  "a second document would be ignored without a word",
		content: top("---\ncluster: other\n"),
		want:    "f:4:1: a second YAML document; a configuration is a single one",
	},
	{
		reason:  "a text in Latin-1",
		content: "cluster: demo\n# caf\xe9\n",
		want:    "f:2:6: not UTF-8: byte 0xE9",
	},
	{
		reason:  "a tab indents",
		content: top("log:\n\tlevel: info\n"),
		want:    "f:5:1: YAML syntax: found character that cannot start any token; this is a tab: indent with spaces",
	},
	{
		reason:  "a tab on the first level",
		content: "\tcluster: demo\n",
		want:    "f:1:1: YAML syntax: found character that cannot start any token; this is a tab: indent with spaces",
	},
	{
		reason:  "a bracket that is never closed",
		content: "cluster: demo\nroutes: [\nsinks: {}\n",
		want:    "f:3:9: YAML syntax: did not find expected ',' or ']'",
	},
	{
		reason:  "a carriage return alone is a line's end to the parser",
		content: "cluster: demo\rlog: \"\r",
		want:    "f:2:6: YAML syntax: found unexpected end of stream",
	},
	{
		reason:  "a quote that is never closed",
		content: top("log: {level: \"info}\n"),
		want:    "f:4:14: YAML syntax: found unexpected end of stream",
	},
	{
		reason:  "two colons on a line, which the parser tells without a line",
		content: "cluster: a: b\n",
		want:    "f:1:11: YAML syntax: mapping values are not allowed in this context",
	},
	{
		reason:  "a key among the elements of a list",
		content: "- a\nb: c\n",
		want:    "f:2:2: YAML syntax: did not find expected '-' indicator",
	},
	{
		reason:  "columns count characters, not bytes",
		content: "{ö: ä, \"ü\": }}\n",
		want:    "f:1:14: YAML syntax: did not find expected <document start>",
	},
	{
		reason:  "an indentation that fits no level",
		content: top("log:\n    level: info\n  format: text\n"),
		want:    "f:6:3: YAML syntax: did not find expected key",
	},
	{
		reason:  "an alias without its anchor",
		content: top("log: *no\n"),
		want:    "f:4:8: YAML syntax: unknown anchor 'no' referenced",
	},
	{
		reason:  "a control character",
		content: "cluster: demo\nlog: \x01\n",
		want:    "f:2:6: YAML syntax: control characters are not allowed",
	},
	{
		reason:  "a directive for another YAML",
		content: "%YAML 3.0\n---\ncluster: demo\n",
		want:    "f:1:9: YAML syntax: found incompatible YAML document",
	},
	{
		reason:  "a character of several bytes in the wrong place",
		content: "cluster: demo\nlog: {ä: }ü\n",
		want:    "f:2:11: YAML syntax: did not find expected key",
	},
	{
		reason:  "a long line is searched by halves",
		content: longLine,
		want:    "f:1:1203: YAML syntax: did not find expected <document start>",
	},
	{
		reason:  "an alias as a key",
		content: top("log: &log {level: info}\n*log : x\n"),
		want:    "f:5:1: *log: a key has to be a string",
	},
	{
		reason:  "an alias, though its anchor is there",
		content: top("log: &log {level: info}\nhealth: *log\n"),
		want:    "f:5:9: health: *log: aliases are not supported; write the value out",
	},
	{
		reason:  "an alias bomb is not unfolded",
		content: "a: &a [x, x]\nb: &b [*a, *a]\nroutes: [*b, *b]\n" + goodCluster + goodSinks,
		want: "f:1:1: a: no such key; keys here: cluster, log, health, server, leaderElection, state, routes, sinks" + "\n" +
			"f:2:1: b: no such key; keys here: cluster, log, health, server, leaderElection, state, routes, sinks" + "\n" +
			"f:3:10: routes[0]: *b: aliases are not supported; write the value out" + "\n" +
			"f:3:14: routes[1]: *b: aliases are not supported; write the value out",
	},
	{
		reason:  "an anchor that holds itself",
		content: "cluster: demo\nroutes: &r [*r]\n" + goodSinks,
		want:    "f:2:13: routes[0]: *r: aliases are not supported; write the value out",
	},
	{
		reason:  "a merge key",
		content: top("log:\n  <<: {level: info}\n  format: json\n"),
		want:    `f:5:3: log."<<": merge keys are not supported; write the values out`,
	},
	{
		reason:  "a tag of the user's",
		content: top("log: !mine {level: info}\n"),
		want:    "f:4:6: log: !mine: tags are not supported; leave it out",
	},
	{
		reason:  "a binary value would be decoded",
		content: top("log: {level: !!binary aW5mbw==}\n"),
		want:    "f:4:14: log.level: !!binary: tags are not supported; leave it out",
	},
	{
		reason:  "a number by its tag, that is none",
		content: stream("replicas: !!int three\n"),
		want:    `f:7:15: sinks.main.nats.jetstream.replicas: "three": not a whole number; write digits only`,
	},
	{
		reason:  "an unknown key with a typo",
		content: top("healht: {}\n"),
		want:    "f:4:1: healht: no such key; did you mean health?",
	},
	{
		reason:  "a required key with a typo is not called missing too",
		content: "cluser: demo\n" + goodRoutes + goodSinks,
		want:    "f:1:1: cluser: no such key; did you mean cluster?",
	},
	{
		reason:  "letters in the wrong case",
		content: top("leaderelection: {}\n"),
		want:    "f:4:1: leaderelection: no such key; did you mean leaderElection?",
	},
	{
		reason:  "an unknown key like no other",
		content: top("metrics: {}\n"),
		want:    "f:4:1: metrics: no such key; keys here: cluster, log, health, server, leaderElection, state, routes, sinks",
	},
	{
		reason:  "an unknown key on the second level",
		content: top("log: {lvel: info}\n"),
		want:    "f:4:7: log.lvel: no such key; did you mean level?",
	},
	{
		reason:  "an unknown key in a list",
		content: route("crd: orders.shop.example.com\n"),
		want:    "f:6:3: routes[0].crd: no such key; did you mean crds?",
	},
	{
		reason:  "an unknown kind of sink",
		content: goodCluster + goodRoutes + "sinks: {main: {kafka: {}}}\n",
		want: "f:3:15: sinks.main: no kind of sink; write nats, http or stdout, with its keys" + "\n" +
			"f:3:16: sinks.main.kafka: no such key; keys here: nats, http, stdout",
	},
	{
		reason:  "an embedded server, and another one",
		content: natsWith("embedded: {dir: /d}\njetstream: {stream: K8S}\n"),
		want:    "f:6:14: sinks.main.nats.embedded: a server in the bridge, and url names others; keep one",
	},
	{
		reason:  "an embedded server that keeps nothing, with values that there are not",
		content: goodCluster + goodRoutes + "sinks: {main: {nats: {embedded: {address: nats, maxBytes: 1}}}}\n",
		want: "f:3:22: sinks.main.nats.jetstream: missing; the embedded server is there to keep events, in the stream that this names\n" +
			"f:3:33: sinks.main.nats.embedded.dir: missing; name a directory that outlives a restart\n" +
			`f:3:43: sinks.main.nats.embedded.address: "nats": not an address to listen on; write host:port, as in 127.0.0.1:4222` + "\n" +
			"f:3:59: sinks.main.nats.embedded.maxBytes: 1: write at least 1048576",
	},
	{
		reason:  "an embedded server that everyone reaches",
		content: goodCluster + goodRoutes + "sinks: {main: {nats: {embedded: {dir: /d, address: ':4222'}, jetstream: {stream: K8S}}}}\n",
		want:    `f:3:52: sinks.main.nats.embedded.address: ":4222": is reached from outside of the machine; say in auth who may, or write a loopback address such as 127.0.0.1:4222`,
	},
	{
		reason:  "an embedded server with credentials that it does not know",
		content: goodCluster + goodRoutes + "sinks: {main: {nats: {embedded: {dir: /d}, auth: {nkeyFile: /k}, jetstream: {stream: K8S}}}}\n",
		want:    "f:3:61: sinks.main.nats.auth.nkeyFile: the embedded server knows no nkeys; write userFile with passwordFile, or tokenFile",
	},
	{
		reason:  "an embedded server that is a cluster, in memory, in a domain",
		content: goodCluster + goodRoutes + "sinks: {main: {nats: {embedded: {dir: /d}, jetstream: {stream: K8S, replicas: 3, storage: memory, domain: hub}}}}\n",
		want: "f:3:55: sinks.main.nats.jetstream: domain, apiPrefix: the embedded server has one JetStream; leave them out\n" +
			"f:3:79: sinks.main.nats.jetstream.replicas: 3: the embedded server is one; write 1\n" +
			`f:3:91: sinks.main.nats.jetstream.storage: "memory": it would be gone with the bridge; write file`,
	},
	{
		reason:  "two servers in one place",
		content: goodCluster + goodRoutes + "sinks: {main: {nats: {embedded: {dir: /d}, jetstream: {stream: A}}}, other: {nats: {embedded: {dir: /d}, jetstream: {stream: B}}}}\n",
		want: `f:3:95: sinks.other.nats.embedded: the directory "/d" is that of sink "main"; give each its own` + "\n" +
			`f:3:95: sinks.other.nats.embedded: the address "127.0.0.1:4222" is that of sink "main"; give each its own`,
	},
	{
		reason:  "an embedded server, and a standby that has none of it",
		content: goodCluster + goodRoutes + "leaderElection: {enabled: true, namespace: n}\nsinks: {main: {nats: {embedded: {dir: /d}, jetstream: {stream: A}}}}\n",
		want:    "f:4:33: sinks.main.nats.embedded: what it keeps is of one bridge, and leaderElection.enabled has several: another leader would have none of it; leave one of the two out",
	},
	{
		reason:  "a sink of two kinds",
		content: goodCluster + goodRoutes + "sinks: {main: {nats: {url: 'nats://a'}, stdout: {}}}\n",
		want:    "f:3:15: sinks.main: nats, stdout: more than one kind of sink; keep one, and make others sinks of their own",
	},
	{
		reason:  "keys for a kind that has none",
		content: goodCluster + goodRoutes + "sinks: {main: {stdout: {path: /dev/stderr}}}\n",
		want:    "f:3:25: sinks.main.stdout.path: no such key; keys here: none",
	},
	{
		reason:  "a URL of another kind of sink, a mode, a file and a time that there are not",
		content: goodCluster + goodRoutes + "sinks: {main: {http: {url: 'nats://a', mode: batch, auth: {tokenFile: \"a\\nb\"}, timeout: 1ms}}}\n",
		want: `f:3:28: sinks.main.http.url: "nats": not a scheme of HTTP; write it as in https://broker.example.com/default` + "\n" +
			`f:3:46: sinks.main.http.mode: "batch": write binary or structured` + "\n" +
			"f:3:71: sinks.main.http.auth.tokenFile: the content of a file; write the file's name\n" +
			"f:3:89: sinks.main.http.timeout: 1ms: write at least 1s",
	},
	{
		reason:  "a URL with a password, and one that lacks",
		content: goodCluster + goodRoutes + "sinks: {main: {http: {url: 'https://me:hunter2@a'}}, other: {http: {}}}\n",
		want: "f:3:28: sinks.main.http.url: a user or password in the URL; secrets are never inline: name a file in auth\n" +
			"f:3:68: sinks.other.http.url: missing; write it as in https://broker.example.com/default",
	},
	{
		reason:  "a state sink that keeps nothing",
		content: goodCluster + goodRoutes + "sinks: {main: {http: {url: 'https://a'}}}\nstate: {sink: main}\n",
		want:    `f:4:15: state.sink: "main": a sink without jetstream keeps no ledgers, and none has it; leave the key out`,
	},
	{
		reason:  "an unknown key in a sink",
		content: natsWith("urls: [nats://other]\n"),
		want:    "f:6:4: sinks.main.nats.urls: no such key; did you mean url?",
	},
	{
		reason:  "an inline secret is not repeated",
		content: natsWith("auth: {password: hunter2}\n"),
		want:    "f:6:11: sinks.main.nats.auth.password: no such key; did you mean passwordFile?",
	},
	{
		reason:  "an unknown key in a stream",
		content: stream("max_age: 1h\n"),
		want:    "f:7:5: sinks.main.nats.jetstream.max_age: no such key; did you mean maxAge?",
	},
	{
		reason:  "an unknown key with an unprintable name",
		content: top("\"a\\nb\": 1\n"),
		want:    `f:4:1: "a\nb": no such key; keys here: cluster, log, health, server, leaderElection, state, routes, sinks`,
	},
	{
		reason:  "a key twice on the first level",
		content: top("cluster: other\n"),
		want:    "f:4:1: cluster: the key is given twice, first on line 1",
	},
	{
		reason:  "a key twice in a flow mapping",
		content: top("log: {level: info, level: debug}\n"),
		want:    "f:4:20: log.level: the key is given twice, first on line 4",
	},
	{
		reason:  "a sink twice",
		content: goodCluster + goodRoutes + "sinks:\n  main: {nats: {url: nats://a}}\n  main: {nats: {url: nats://b}}\n",
		want:    "f:5:3: sinks.main: the key is given twice, first on line 4",
	},
	{
		reason:  "a key that is a number",
		content: top("1: one\n"),
		want:    "f:4:1: 1: a key has to be a string",
	},
	{
		reason:  "a key that is a list",
		content: top("? [a]\n: b\n"),
		want:    "f:4:3: a list: a key has to be a string",
	},
	{
		reason:  "a number for a string",
		content: "cluster: 123\n" + goodRoutes + goodSinks,
		want:    `f:1:10: cluster: 123: not a string; write it in quotes, as in "123"`,
	},
	{
		reason:  "a boolean for a string",
		content: "cluster: true\n" + goodRoutes + goodSinks,
		want:    `f:1:10: cluster: true: not a string; write it in quotes, as in "true"`,
	},
	{
		reason:  "a list for a string",
		content: top("health: {address: [a, b]}\n"),
		want:    "f:4:19: health.address: a list: not a string",
	},
	{
		reason:  "a scalar for a mapping",
		content: top("log: info\n"),
		want:    `f:4:6: log: "info": not a mapping`,
	},
	{
		reason:  "a list for a mapping",
		content: goodCluster + goodRoutes + "sinks: [main]\n",
		want:    "f:3:8: sinks: a list: not a mapping",
	},
	{
		reason:  "a mapping for a list",
		content: goodCluster + "routes: {orders: {}}\n" + goodSinks,
		want:    "f:2:9: routes: a mapping: not a list",
	},
	{
		reason:  "a string for a list",
		content: goodCluster + "routes: [{name: orders, crds: orders.shop.example.com, sinks: [main]}]\n" + goodSinks,
		want:    `f:2:31: routes[0].crds: "orders.shop.example.com": not a list`,
	},
	{
		reason:  "a scalar for an element that is a mapping",
		content: goodCluster + "routes: [orders]\n" + goodSinks,
		want:    `f:2:10: routes[0]: "orders": not a mapping`,
	},
	{
		reason:  "a null element",
		content: route("excludeCRDs: [~]\n"),
		want:    "f:6:17: routes[0].excludeCRDs[0]: null: not a string",
	},
	{
		reason:  "a number for an element that is a string",
		content: route("excludeCRDs: [1.5]\n"),
		want:    `f:6:17: routes[0].excludeCRDs[0]: 1.5: not a string; write it in quotes, as in "1.5"`,
	},
	{
		reason:  "yes is no boolean",
		content: top("leaderElection: {enabled: yes}\n"),
		want:    `f:4:27: leaderElection.enabled: "yes": not true or false`,
	},
	{
		reason:  "a boolean in quotes is a string",
		content: top("leaderElection: {enabled: \"true\"}\n"),
		want:    `f:4:27: leaderElection.enabled: "true": not true or false; write it without quotes`,
	},
	{
		reason:  "a whole number with a fraction",
		content: stream("replicas: 1.5\n"),
		want:    `f:7:15: sinks.main.nats.jetstream.replicas: "1.5": not a whole number; write digits only`,
	},
	{
		reason:  "a number in quotes is a string",
		content: stream("replicas: \"3\"\n"),
		want:    `f:7:15: sinks.main.nats.jetstream.replicas: "3": not a whole number; write it without quotes`,
	},
	{
		reason:  "a number that fits no integer",
		content: stream("maxBytes: 99999999999999999999\n"),
		want:    `f:7:15: sinks.main.nats.jetstream.maxBytes: "99999999999999999999": not a whole number; write digits only`,
	},
	{
		reason:  "a size with a unit",
		content: stream("maxBytes: 10Gi\n"),
		want:    `f:7:15: sinks.main.nats.jetstream.maxBytes: "10Gi": not a whole number; write digits only`,
	},
	{
		reason:  "a duration without a unit",
		content: stream("maxAge: 3600\n"),
		want:    `f:7:13: sinks.main.nats.jetstream.maxAge: "3600": a duration without a unit; write one, as in 2m`,
	},
	{
		reason:  "a duration in days",
		content: stream("maxAge: 7d\n"),
		want:    `f:7:13: sinks.main.nats.jetstream.maxAge: "7d": not a duration; write it as in 500ms, 90s, 2m or 168h (there is no unit for days)`,
	},
	{
		reason:  "a mapping for the url",
		content: goodCluster + goodRoutes + "sinks: {main: {nats: {url: {host: nats}}}}\n",
		want:    "f:3:28: sinks.main.nats.url: a mapping: not a string or a list of strings",
	},
	{
		reason:  "a mapping for the stream is needed",
		content: natsWith("jetstream: true\n"),
		want:    "f:6:15: sinks.main.nats.jetstream: true: not a mapping",
	},
	{
		reason:  "a list for a duration",
		content: stream("maxAge: [1h]\n"),
		want:    "f:7:13: sinks.main.nats.jetstream.maxAge: a list: not a duration",
	},
	{
		reason:  "a long value is cut",
		content: "cluster: " + longName + "\n" + goodRoutes + goodSinks,
		want:    `f:1:10: cluster: "long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-…": not a DNS-1123 label; write at most 63 of a-z, 0-9 and -, with a letter or digit first and last`,
	},
	{
		reason:  "a name with an upper-case letter",
		content: "cluster: Demo\n" + goodRoutes + goodSinks,
		want:    `f:1:10: cluster: "Demo": not a DNS-1123 label; write at most 63 of a-z, 0-9 and -, with a letter or digit first and last`,
	},
	{
		reason:  "an unknown level",
		content: top("log: {level: loud}\n"),
		want:    `f:4:14: log.level: "loud": write debug, info, warn or error`,
	},
	{
		reason:  "an unknown format",
		content: top("log: {format: xml}\n"),
		want:    `f:4:15: log.format: "xml": write text or json`,
	},
	{
		reason:  "an address without a port",
		content: top("health: {address: localhost}\n"),
		want:    `f:4:19: health.address: "localhost": not an address to listen on; write host:port, as in "127.0.0.1:8080" or ":8080"`,
	},
	{
		reason:  "an address with a port that is too high",
		content: top("health: {address: \":65536\"}\n"),
		want:    `f:4:19: health.address: ":65536": not an address to listen on; write host:port, as in "127.0.0.1:8080" or ":8080"`,
	},
	{
		reason:  "an address with a negative port",
		content: top("server: {address: \"127.0.0.1:-1\"}\n"),
		want:    `f:4:19: server.address: "127.0.0.1:-1": not an address to listen on; write host:port, as in "127.0.0.1:8080" or ":8080"`,
	},
	{
		reason:  "an address with a host that can be none",
		content: top("server: {address: \"my host:80\"}\n"),
		want:    `f:4:19: server.address: "my host:80": not an address to listen on; write host:port, as in "127.0.0.1:8080" or ":8080"`,
	},
	{
		reason:  "an empty address",
		content: top("health: {address: \"\"}\n"),
		want:    `f:4:19: health.address: "": not an address to listen on; write host:port, as in "127.0.0.1:8080" or ":8080"`,
	},
	{
		reason:  "two listeners on one port",
		content: top("health: {address: \":8080\"}\n"),
		want:    `f:4:19: health.address: ":8080": takes the port of server.address, "127.0.0.1:8080"; write the same address to share it, or another port`,
	},
	{
		reason:  "an auth that does not exist",
		content: top("server: {auth: password}\n"),
		want:    `f:4:16: server.auth: "password": write none or kubernetes`,
	},
	{
		reason:  "a Lease's name and namespace",
		content: top("leaderElection: {name: My Lease, namespace: a.b}\n"),
		want: `f:4:24: leaderElection.name: "My Lease": not a DNS-1123 subdomain; write DNS-1123 labels joined by dots, at most 253 characters` + "\n" +
			`f:4:45: leaderElection.namespace: "a.b": not a DNS-1123 label; write at most 63 of a-z, 0-9 and -, with a letter or digit first and last`,
	},
	{
		reason:  "nothing that is required",
		content: "log: {}\n",
		want: "f:1:1: cluster: missing; write a DNS-1123 label" + "\n" +
			"f:1:1: routes: missing; at least one route has to be there" + "\n" +
			"f:1:1: sinks: missing; at least one sink has to be there",
	},
	{
		reason:  "null is as good as missing",
		content: "cluster:\nroutes:\nsinks:\n",
		want: "f:1:9: cluster: missing; write a DNS-1123 label" + "\n" +
			"f:2:8: routes: missing; at least one route has to be there" + "\n" +
			"f:3:7: sinks: missing; at least one sink has to be there",
	},
	{
		reason:  "empty lists and mappings",
		content: goodCluster + "routes: []\nsinks: {}\n",
		want: "f:2:9: routes: missing; at least one route has to be there" + "\n" +
			"f:3:8: sinks: missing; at least one sink has to be there",
	},
	{
		reason:  "an empty route",
		content: goodCluster + "routes: [{}]\n" + goodSinks,
		want: "f:2:10: routes[0].name: missing; write a DNS-1123 label" + "\n" +
			"f:2:10: routes[0].crds: missing; name at least one CRD" + "\n" +
			"f:2:10: routes[0].sinks: missing; name at least one sink",
	},
	{
		reason:  "a route's name",
		content: goodCluster + "routes: [{name: a_b, crds: ['*'], sinks: [main]}]\n" + goodSinks,
		want:    `f:2:17: routes[0].name: "a_b": not a DNS-1123 label; write at most 63 of a-z, 0-9 and -, with a letter or digit first and last`,
	},
	{
		reason:  "two routes of one name",
		content: goodCluster + "routes:\n- {name: a, crds: ['*'], sinks: [main]}\n- {name: a, crds: ['*'], sinks: [main]}\n" + goodSinks,
		want:    `f:4:10: routes[1].name: "a": the name of routes[0]; each route needs its own`,
	},
	{
		reason:  "a kind is no name of a CRD",
		content: goodCluster + "routes: [{name: a, crds: [orders, Order.shop.example.com, orders.shop, '*.shop', 'orders.*', '**', ''], sinks: [main]}]\n" + goodSinks,
		want: `f:2:27: routes[0].crds[0]: "orders": not a CRD name; write <plural>.<group>, "*.<group>" or "*"` + "\n" +
			`f:2:35: routes[0].crds[1]: "Order.shop.example.com": not a CRD name; write <plural>.<group>, "*.<group>" or "*"` + "\n" +
			`f:2:59: routes[0].crds[2]: "orders.shop": not a CRD name; write <plural>.<group>, "*.<group>" or "*"` + "\n" +
			`f:2:72: routes[0].crds[3]: "*.shop": not a CRD name; write <plural>.<group>, "*.<group>" or "*"` + "\n" +
			`f:2:82: routes[0].crds[4]: "orders.*": not a CRD name; write <plural>.<group>, "*.<group>" or "*"` + "\n" +
			`f:2:94: routes[0].crds[5]: "**": not a CRD name; write <plural>.<group>, "*.<group>" or "*"` + "\n" +
			`f:2:100: routes[0].crds[6]: "": not a CRD name; write <plural>.<group>, "*.<group>" or "*"`,
	},
	{
		reason:  "an exclusion that is no pattern, and one twice",
		content: route("excludeCRDs: [a, '*', '*']\n"),
		want: `f:6:17: routes[0].excludeCRDs[0]: "a": not a CRD name; write <plural>.<group>, "*.<group>" or "*"` + "\n" +
			`f:6:25: routes[0].excludeCRDs[2]: "*": listed twice`,
	},
	{
		reason:  "a version",
		content: route("version: 1.0.0\n"),
		want:    `f:6:12: routes[0].version: "1.0.0": not the name of a version; write it as in v1 or v1beta1`,
	},
	{
		reason:  "types of events that are none",
		content: route("events: [deleted, deselected, create, Deleted, '']\n"),
		want: `f:6:33: routes[0].events[2]: "create": write existing, created, updated, deleted or deselected` + "\n" +
			`f:6:41: routes[0].events[3]: "Deleted": write existing, created, updated, deleted or deselected` + "\n" +
			`f:6:50: routes[0].events[4]: "": write existing, created, updated, deleted or deselected`,
	},
	{
		reason:  "the CloudEvents type is not what is written here",
		content: route("events: [dev.crbridge.resource.created.v1]\n"),
		want:    `f:6:12: routes[0].events[0]: "dev.crbridge.resource.created.v1": write existing, created, updated, deleted or deselected`,
	},
	{
		reason:  "a type of events twice",
		content: route("events: [existing, created, updated, deleted, created]\n"),
		want:    `f:6:49: routes[0].events[4]: "created": listed twice`,
	},
	{
		reason:  "a route that sends nothing does nothing",
		content: route("events: []\n"),
		want:    "f:6:11: routes[0].events: empty; name at least one type of event, or leave the key out for all",
	},
	{
		reason:  "a single type is a list too",
		content: route("events: deleted\n"),
		want:    `f:6:11: routes[0].events: "deleted": not a list`,
	},
	{
		reason:  "types that are not understood are not called empty or twice",
		content: route("events: [~, '', true]\n"),
		want: "f:6:12: routes[0].events[0]: null: not a string" + "\n" +
			`f:6:15: routes[0].events[1]: "": write existing, created, updated, deleted or deselected` + "\n" +
			`f:6:19: routes[0].events[2]: true: not a string; write it in quotes, as in "true"`,
	},
	{
		reason:  "a state sink that is not there, and looks like one",
		content: top("state: {sink: mian}\n"),
		want:    `f:4:15: state.sink: "mian": no such sink; did you mean main?`,
	},
	{
		reason:  "a state sink that is like no other",
		content: top("state: {sink: other}\n"),
		want:    `f:4:15: state.sink: "other": no such sink; there are: main`,
	},
	{
		reason:  "without any sink that is the problem, not the state sink's name",
		content: goodCluster + "state: {sink: main}\nroutes: [{name: a, crds: ['*'], sinks: [main]}]\nsinks: {}\n",
		want:    "f:4:8: sinks: missing; at least one sink has to be there",
	},
	{
		reason:  "a state sink without a stream, and none with one",
		content: top("state: {sink: main}\n"),
		want:    `f:4:15: state.sink: "main": a sink without jetstream keeps no ledgers, and none has it; leave the key out`,
	},
	{
		reason: "a state sink without a stream, beside two with one",
		content: goodCluster + goodRoutes + `sinks:
  main: {nats: {url: nats://a}}
  k8s-2: {nats: {url: nats://b, jetstream: {stream: K8S}}}
  k8s-1: {nats: {url: nats://a, jetstream: {stream: K8S}}}
state: {sink: main}
`,
		want: `f:7:15: state.sink: "main": a sink without jetstream keeps no ledgers; those with it: k8s-1, k8s-2`,
	},
	{
		reason:  "a state sink whose stream is not understood may have one",
		content: natsWith("jetstream: true\n") + "state: {sink: main}\n",
		want:    "f:6:15: sinks.main.nats.jetstream: true: not a mapping",
	},
	{
		reason:  "a state sink whose stream is misspelt was to have one",
		content: natsWith("jetStream: {stream: K8S}\n") + "state: {sink: main}\n",
		want:    "f:6:4: sinks.main.nats.jetStream: no such key; did you mean jetstream?",
	},
	{
		reason:  "a state sink of no kind is told of once",
		content: goodCluster + goodRoutes + "sinks: {main: }\nstate: {sink: main}\n",
		want:    "f:3:15: sinks.main: no kind of sink; write nats, http or stdout, with its keys",
	},
	{
		reason:  "one sink keeps the state, not several",
		content: stream("") + "state: {sink: [main]}\n",
		want:    "f:9:15: state.sink: a list: not a string",
	},
	{
		reason:  "an unknown key in the state",
		content: top("state: {sinks: main}\n"),
		want:    "f:4:9: state.sinks: no such key; did you mean sink?",
	},
	{
		reason:  "a sink that is not there",
		content: goodCluster + "routes: [{name: a, crds: ['*'], sinks: [mian, other, main, main]}]\n" + goodSinks,
		want: `f:2:41: routes[0].sinks[0]: "mian": no such sink; did you mean main?` + "\n" +
			`f:2:47: routes[0].sinks[1]: "other": no such sink; there are: main` + "\n" +
			`f:2:60: routes[0].sinks[3]: "main": listed twice`,
	},
	{
		reason:  "a sink's name",
		content: goodCluster + goodRoutes + "sinks: {main: {nats: {url: nats://a}}, Main.2: {nats: {url: nats://a}}}\n",
		want:    `f:3:40: sinks."Main.2": not a DNS-1123 label; write at most 63 of a-z, 0-9 and -, with a letter or digit first and last`,
	},
	{
		reason:  "a sink of no kind",
		content: goodCluster + goodRoutes + "sinks: {main: }\n",
		want:    "f:3:15: sinks.main: no kind of sink; write nats, http or stdout, with its keys",
	},
	{
		reason:  "a kind that is null is no kind",
		content: goodCluster + goodRoutes + "sinks: {main: {nats: }}\n",
		want:    "f:3:15: sinks.main: no kind of sink; write nats, http or stdout, with its keys",
	},
	{
		reason:  "a sink that is not understood is there nevertheless",
		content: goodCluster + goodRoutes + "sinks: {main: 5}\n",
		want:    "f:3:15: sinks.main: 5: not a mapping",
	},
	{
		reason:  "a sink without a url",
		content: goodCluster + goodRoutes + "sinks: {main: {nats: {mode: binary}}}\n",
		want:    "f:3:22: sinks.main.nats.url: missing; write it as in nats://nats.example.com:4222, or embedded for a server in the bridge",
	},
	{
		reason:  "an empty list of urls",
		content: goodCluster + goodRoutes + "sinks: {main: {nats: {url: []}}}\n",
		want:    "f:3:28: sinks.main.nats.url: missing; write it as in nats://nats.example.com:4222, or embedded for a server in the bridge",
	},
	{
		reason:  "a user and a password in the url are not repeated",
		content: goodCluster + goodRoutes + "sinks: {main: {nats: {url: 'nats://bridge:hunter2@nats:4222'}}}\n",
		want:    "f:3:28: sinks.main.nats.url: a user, password or token in the URL; secrets are never inline: name their files in auth",
	},
	{
		reason:  "a token in the url is not repeated",
		content: goodCluster + goodRoutes + "sinks: {main: {nats: {url: ['nats://a', 'nats://hunter2@nats']}}}\n",
		want:    "f:3:41: sinks.main.nats.url[1]: a user, password or token in the URL; secrets are never inline: name their files in auth",
	},
	{
		reason:  "a url that does not parse may hold a secret",
		content: goodCluster + goodRoutes + "sinks: {main: {nats: {url: 'nats://bridge:hunter2'}}}\n",
		want:    "f:3:28: sinks.main.nats.url: not a URL; write it as in nats://nats.example.com:4222",
	},
	{
		reason:  "a query in the url may hold one too",
		content: goodCluster + goodRoutes + "sinks: {main: {nats: {url: 'nats://nats?token=hunter2'}}}\n",
		want:    "f:3:28: sinks.main.nats.url: a query or fragment in the URL; write it as in nats://nats.example.com:4222",
	},
	{
		reason:  "a list as other programs of NATS take it; the first of these reads as a URL",
		content: goodCluster + goodRoutes + "sinks: {main: {nats: {url: ['nats://a,b:4222', 'nats://a:4222,nats://b:4222']}}}\n",
		want: "f:3:29: sinks.main.nats.url[0]: a comma in the URL; several servers are a list: [nats://a:4222, nats://b:4222]\n" +
			"f:3:48: sinks.main.nats.url[1]: a comma in the URL; several servers are a list: [nats://a:4222, nats://b:4222]",
	},
	{
		reason:  "urls without a scheme, with a foreign one, without a host, with a bad port",
		content: goodCluster + goodRoutes + "sinks: {main: {nats: {url: ['nats:4222', nats, 'http://nats', 'nats://', 'nats://nats:70000', '']}}}\n",
		want: `f:3:29: sinks.main.nats.url[0]: "nats:4222": not a URL with a host; write it as in nats://nats.example.com:4222` + "\n" +
			`f:3:42: sinks.main.nats.url[1]: "nats": not a URL with a host; write it as in nats://nats.example.com:4222` + "\n" +
			`f:3:48: sinks.main.nats.url[2]: "http": not a scheme of NATS; write nats, tls, ws or wss` + "\n" +
			`f:3:63: sinks.main.nats.url[3]: "nats://": not a URL with a host; write it as in nats://nats.example.com:4222` + "\n" +
			`f:3:74: sinks.main.nats.url[4]: "70000": not a port; write 1 to 65535` + "\n" +
			`f:3:95: sinks.main.nats.url[5]: "": not a URL with a host; write it as in nats://nats.example.com:4222`,
	},
	{
		reason:  "nats.go refuses WebSockets beside others",
		content: goodCluster + goodRoutes + "sinks: {main: {nats: {url: [nats://a, ws://a]}}}\n",
		want:    "f:3:28: sinks.main.nats.url: WebSocket URLs and others; a connection needs all of one sort",
	},
	{
		reason:  "a subject with a field that does not exist",
		content: natsWith("subject: k8s.{name}.{uid}\n"),
		want:    `f:6:13: sinks.main.nats.subject: "k8s.{name}.{uid}": there is no field "{uid}"; fields are {cluster} {group} {version} {kind} {resource} {namespace} {name} {event} {route}`,
	},
	{
		reason:  "a subject with a wildcard",
		content: natsWith("subject: k8s.>\n"),
		want:    `f:6:13: sinks.main.nats.subject: "k8s.>": ">": a subject to publish to has no wildcards`,
	},
	{
		reason:  "an empty subject",
		content: natsWith("subject: \"\"\n"),
		want:    `f:6:13: sinks.main.nats.subject: "": a token between two dots, before the first or after the last is empty`,
	},
	{
		reason:  "an unknown mode",
		content: natsWith("mode: batch\n"),
		want:    `f:6:10: sinks.main.nats.mode: "batch": write binary or structured`,
	},
	{
		reason:  "two kinds of credentials",
		content: natsWith("auth: {credentialsFile: /c, tokenFile: /t}\n"),
		want:    "f:6:10: sinks.main.nats.auth: credentialsFile, tokenFile: more than one kind of credentials; keep one",
	},
	{
		reason:  "a user without a password",
		content: natsWith("auth: {userFile: /u}\n"),
		want:    "f:6:10: sinks.main.nats.auth.passwordFile: missing; it goes with userFile",
	},
	{
		reason:  "the credentials themselves in place of their file",
		content: natsWith("auth:\n credentialsFile: |\n  -----BEGIN NATS USER JWT-----\n  hunter2\n"),
		want:    "f:7:22: sinks.main.nats.auth.credentialsFile: the content of a file; write the file's name",
	},
	{
		reason:  "a certificate without its key",
		content: natsWith("tls: {certFile: /c}\n"),
		want:    "f:6:9: sinks.main.nats.tls.keyFile: missing; it goes with certFile",
	},
	{
		reason:  "a certificate in place of its file",
		content: natsWith("tls: {caFile: \"-----BEGIN CERTIFICATE-----\"}\n"),
		want:    "f:6:18: sinks.main.nats.tls.caFile: the content of a file; write the file's name",
	},
	{
		reason:  "a server name that can be none",
		content: natsWith("tls: {serverName: \"nats://nats\"}\n"),
		want:    `f:6:22: sinks.main.nats.tls.serverName: "nats://nats": not a host name or an IP address`,
	},
	{
		reason:  "a stream without a name",
		content: natsWith("jetstream: {}\n"),
		want:    "f:6:15: sinks.main.nats.jetstream.stream: missing; name the stream",
	},
	{
		reason:  "a stream's name with a dot",
		content: natsWith("jetstream: {stream: k8s.events}\n"),
		want:    `f:6:24: sinks.main.nats.jetstream.stream: "k8s.events": not the name of a stream; write at most 255 bytes without white space, control characters and any of . * > / \`,
	},
	{
		reason:  "a stream's name with white space",
		content: natsWith("jetstream: {stream: my events}\n"),
		want:    `f:6:24: sinks.main.nats.jetstream.stream: "my events": not the name of a stream; write at most 255 bytes without white space, control characters and any of . * > / \`,
	},
	{
		reason:  "a domain of two tokens",
		content: stream("domain: hub.eu\n"),
		want:    `f:7:13: sinks.main.nats.jetstream.domain: "hub.eu": not the name of a domain; write one token of a subject, without wildcards`,
	},
	{
		reason:  "two ways to say where JetStream is",
		content: natsWith("jetstream: {stream: K8S, domain: hub, apiPrefix: hub.api}\n"),
		want:    `f:6:37: sinks.main.nats.jetstream.domain: "hub": apiPrefix says where JetStream is too; leave out one of the two`,
	},
	{
		reason:  "an inbox with a wildcard",
		content: natsWith("inboxPrefix: _INBOX.>\n"),
		want:    `f:6:17: sinks.main.nats.inboxPrefix: "_INBOX.>": not the beginning of a subject; write tokens joined by dots, without wildcards and without a dot at the end`,
	},
	{
		reason:  "a prefix that ends in a dot",
		content: natsWith("jetstream: {stream: K8S, apiPrefix: $JS.API.}\n"),
		want:    `f:6:40: sinks.main.nats.jetstream.apiPrefix: "$JS.API.": not the beginning of a subject; write tokens joined by dots, without wildcards and without a dot at the end`,
	},
	{
		reason:  "subjects that no stream takes",
		content: stream("subjects: [k8s.>, 'a..b', '>.a', 'a b', '', k8s.>]\n"),
		want: `f:7:23: sinks.main.nats.jetstream.subjects[1]: "a..b": not a subject; write tokens joined by dots, * for any token, > at the end for all that follow` + "\n" +
			`f:7:31: sinks.main.nats.jetstream.subjects[2]: ">.a": not a subject; write tokens joined by dots, * for any token, > at the end for all that follow` + "\n" +
			`f:7:38: sinks.main.nats.jetstream.subjects[3]: "a b": not a subject; write tokens joined by dots, * for any token, > at the end for all that follow` + "\n" +
			`f:7:45: sinks.main.nats.jetstream.subjects[4]: "": not a subject; write tokens joined by dots, * for any token, > at the end for all that follow` + "\n" +
			`f:7:49: sinks.main.nats.jetstream.subjects[5]: "k8s.>": listed twice`,
	},
	{
		reason:  "too many replicas",
		content: stream("replicas: 6\n"),
		want:    "f:7:15: sinks.main.nats.jetstream.replicas: 6: write 1 to 5",
	},
	{
		reason:  "no replica",
		content: stream("replicas: 0\n"),
		want:    "f:7:15: sinks.main.nats.jetstream.replicas: 0: write 1 to 5",
	},
	{
		reason:  "an unknown storage",
		content: stream("storage: disk\n"),
		want:    `f:7:14: sinks.main.nats.jetstream.storage: "disk": write file or memory`,
	},
	{
		reason:  "negative limits",
		content: stream("maxAge: -1h\nmaxBytes: -1\nmaxMsgsPerSubject: -1\n"),
		want: "f:7:13: sinks.main.nats.jetstream.maxAge: -1h: write 0s, for no limit, or at least 100ms" + "\n" +
			"f:8:15: sinks.main.nats.jetstream.maxBytes: -1: write 0, for no limit, or more" + "\n" +
			"f:9:24: sinks.main.nats.jetstream.maxMsgsPerSubject: -1: write 0, for no limit, or more",
	},
	{
		reason:  "a maxAge that the server refuses",
		content: stream("maxAge: 1ms\n"),
		want:    "f:7:13: sinks.main.nats.jetstream.maxAge: 1ms: write 0s, for no limit, or at least 100ms",
	},
	{
		reason:  "no duplicate window",
		content: stream("duplicateWindow: 0s\n"),
		want:    "f:7:22: sinks.main.nats.jetstream.duplicateWindow: 0s: write at least 100ms",
	},
	{
		reason:  "a duplicate window longer than maxAge",
		content: stream("maxAge: 1h\nduplicateWindow: 2h\n"),
		want:    "f:8:22: sinks.main.nats.jetstream.duplicateWindow: 2h: longer than maxAge, 1h; JetStream wants it at most as long",
	},
	{
		reason:  "a maxAge shorter than the default duplicate window",
		content: stream("maxAge: 1m\n"),
		want:    "f:7:13: sinks.main.nats.jetstream.maxAge: 1m: shorter than duplicateWindow, 2m; set that to at most 1m",
	},
	{
		reason: "one stream fed twice by one route, the server written in two ways",
		content: goodCluster + `
routes: [{name: orders, crds: ["*"], sinks: [a, b]}]
sinks:
  a: {nats: {url: nats://nats, jetstream: {stream: K8S}}}
  b: {nats: {url: ["tls://NATS:4222", "tls://nats-2"], jetstream: {stream: K8S}}}
`,
		want: `f:3:49: routes[0].sinks[1]: "b": leads to the same stream, "K8S", as sink "a"; the route would feed it twice`,
	},
	{
		reason: "one stream fed twice over WebSockets, with and without the default port",
		content: goodCluster + `
routes: [{name: orders, crds: ["*"], sinks: [a, b, c, d]}]
sinks:
  a: {nats: {url: ws://nats, jetstream: {stream: K8S}}}
  b: {nats: {url: "ws://nats:80", jetstream: {stream: K8S}}}
  c: {nats: {url: wss://nats, jetstream: {stream: K8S}}}
  d: {nats: {url: "wss://nats:443", jetstream: {stream: K8S}}}
`,
		want: `f:3:49: routes[0].sinks[1]: "b": leads to the same stream, "K8S", as sink "a"; the route would feed it twice` + "\n" +
			`f:3:55: routes[0].sinks[3]: "d": leads to the same stream, "K8S", as sink "c"; the route would feed it twice`,
	},
	{
		reason: "all problems at once, in the order of the file",
		content: `log: {level: loud}
routes:
  - name: Orders
    crds: [orders]
    sinks: [other]
    where: "true"
sinks:
  main:
    nats: {url: nats://u:p@h, mode: 5}
`,
		want: "f:1:1: cluster: missing; write a DNS-1123 label" + "\n" +
			`f:1:14: log.level: "loud": write debug, info, warn or error` + "\n" +
			`f:3:11: routes[0].name: "Orders": not a DNS-1123 label; write at most 63 of a-z, 0-9 and -, with a letter or digit first and last` + "\n" +
			`f:4:12: routes[0].crds[0]: "orders": not a CRD name; write <plural>.<group>, "*.<group>" or "*"` + "\n" +
			`f:5:13: routes[0].sinks[0]: "other": no such sink; there are: main` + "\n" +
			"f:6:5: routes[0].where: no such key; did you mean when?" + "\n" +
			"f:9:17: sinks.main.nats.url: a user, password or token in the URL; secrets are never inline: name their files in auth" + "\n" +
			`f:9:37: sinks.main.nats.mode: 5: not a string; write it in quotes, as in "5"`,
	},
	{
		reason:  "an unknown variable",
		content: good,
		environ: []string{"BRIDGE__METRICS=hunter2"},
		want:    "environment: BRIDGE__METRICS: no such key; a variable is BRIDGE__ and the key's path with __ between its levels, as in BRIDGE__LOG__LEVEL",
	},
	{
		reason:  "an unknown variable with a typo",
		content: good,
		environ: []string{"BRIDGE__LOG__LEVL=info"},
		want:    "environment: BRIDGE__LOG__LEVL: no such key; did you mean BRIDGE__LOG__LEVEL?",
	},
	{
		reason:  "a sink that the file does not have",
		content: good,
		environ: []string{"BRIDGE__SINKS__SECOND_ONE__NATS__URL=nats://a"},
		want:    "environment: BRIDGE__SINKS__SECOND_ONE__NATS__URL: no such key; the environment reaches only sinks that the file has",
	},
	{
		reason:  "a list",
		content: good,
		environ: []string{"BRIDGE__ROUTES=[]"},
		want:    "environment: BRIDGE__ROUTES: routes is a list, which cannot be set from the environment",
	},
	{
		reason:  "an element of a list",
		content: good,
		environ: []string{"BRIDGE__ROUTES__0__NAME=a"},
		want:    "environment: BRIDGE__ROUTES__0__NAME: routes is a list, which cannot be set from the environment",
	},
	{
		reason:  "a mapping",
		content: good,
		environ: []string{"BRIDGE__LOG={}"},
		want:    "environment: BRIDGE__LOG: log is a mapping, which cannot be set from the environment",
	},
	{
		reason:  "a mapping with the user's keys",
		content: good,
		environ: []string{"BRIDGE__SINKS__MAIN={}"},
		want:    "environment: BRIDGE__SINKS__MAIN: sinks.main is a mapping, which cannot be set from the environment",
	},
	{
		reason:  "one key by two variables",
		content: good,
		environ: []string{"BRIDGE__CLUSTER=a", "bridge__cluster=b"},
		want:    "environment: bridge__cluster: cluster is set by BRIDGE__CLUSTER as well",
	},
	{
		reason:  "a bad value from a variable",
		content: good,
		environ: []string{"BRIDGE__LOG__LEVEL=loud"},
		want:    `environment: BRIDGE__LOG__LEVEL: log.level: "loud": write debug, info, warn or error`,
	},
	{
		reason:  "a variable that is no boolean",
		content: good,
		environ: []string{"BRIDGE__LEADERELECTION__ENABLED=yes"},
		want:    `environment: BRIDGE__LEADERELECTION__ENABLED: leaderElection.enabled: "yes": not true or false`,
	},
	{
		reason:  "a variable that is no number",
		content: good,
		environ: []string{"BRIDGE__SINKS__MAIN__NATS__JETSTREAM__REPLICAS=three"},
		want:    `environment: BRIDGE__SINKS__MAIN__NATS__JETSTREAM__REPLICAS: sinks.main.nats.jetstream.replicas: "three": not a whole number; write digits only`,
	},
	{
		reason:  "a variable that is no duration",
		content: good,
		environ: []string{"BRIDGE__SINKS__MAIN__NATS__JETSTREAM__MAXAGE=3600"},
		want:    `environment: BRIDGE__SINKS__MAIN__NATS__JETSTREAM__MAXAGE: sinks.main.nats.jetstream.maxAge: "3600": a duration without a unit; write one, as in 2m`,
	},
	{
		reason:  "a state sink without a stream, from a variable",
		content: good,
		environ: []string{"BRIDGE__STATE__SINK=main"},
		want:    `environment: BRIDGE__STATE__SINK: state.sink: "main": a sink without jetstream keeps no ledgers, and none has it; leave the key out`,
	},
	{
		reason:  "a secret in a variable is not repeated",
		content: good,
		environ: []string{"BRIDGE__SINKS__MAIN__NATS__URL=nats://bridge:hunter2@nats"},
		want:    "environment: BRIDGE__SINKS__MAIN__NATS__URL: sinks.main.nats.url: a user, password or token in the URL; secrets are never inline: name their files in auth",
	},
	{
		reason:  "a variable does not heal the file",
		content: top("log: {level: 5}\n"),
		environ: []string{"BRIDGE__LOG__LEVEL=info"},
		want:    `f:4:14: log.level: 5: not a string; write it in quotes, as in "5"`,
	},
	{
		reason:  "an empty variable is a value",
		content: good,
		environ: []string{"BRIDGE__CLUSTER="},
		want:    "environment: BRIDGE__CLUSTER: cluster: missing; write a DNS-1123 label",
	},
	{
		reason:  "problems of the environment follow those of the file",
		content: top("log: {lvel: info}\n"),
		environ: []string{"BRIDGE__LOG__FORMAT=xml", "BRIDGE__HEALTH__ADDRESS=80"},
		want: "f:4:7: log.lvel: no such key; did you mean level?" + "\n" +
			`environment: BRIDGE__HEALTH__ADDRESS: health.address: "80": not an address to listen on; write host:port, as in "127.0.0.1:8080" or ":8080"` + "\n" +
			`environment: BRIDGE__LOG__FORMAT: log.format: "xml": write text or json`,
	},
}
