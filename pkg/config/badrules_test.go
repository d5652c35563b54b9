package config

// badRules are configurations whose routes select, filter or send what cannot be.
var badRules = []badRow{
	{
		reason:  "a namespace that can be none",
		content: route("namespaces: [a, B]\n"),
		want:    `f:6:19: routes[0].namespaces[1]: "B": not a DNS-1123 label; write at most 63 of a-z, 0-9 and -, with a letter or digit first and last`,
	},
	{
		reason:  "a namespace twice",
		content: route("namespaces: [a, a]\n"),
		want:    `f:6:19: routes[0].namespaces[1]: "a": listed twice`,
	},
	{
		reason:  "a namespace for a list",
		content: route("namespaces: default\n"),
		want:    `f:6:15: routes[0].namespaces: "default": not a list`,
	},
	{
		reason:  "a label selector that is none",
		content: route("labelSelector: 'a in b'\n"),
		want:    `f:6:18: routes[0].labelSelector: "a in b": not a label selector: found 'b' expected: '('; write it as for kubectl's -l, as in app=web,tier in (a, b),!old`,
	},
	{
		reason:  "a label selector with a key that can be none",
		content: route("labelSelector: 'a b=c'\n"),
		want:    `f:6:18: routes[0].labelSelector: "a b=c": not a label selector: found 'b', expected: in, notin, =, ==, !=, gt, lt; write it as for kubectl's -l, as in app=web,tier in (a, b),!old`,
	},
	{
		reason:  "a label selector as a mapping",
		content: route("labelSelector: {app: web}\n"),
		want:    "f:6:18: routes[0].labelSelector: a mapping: not a string",
	},
	{
		reason:  "a field selector that is none",
		content: route("fieldSelector: spec.color\n"),
		want:    `f:6:18: routes[0].fieldSelector: "spec.color": not a field selector: can't understand 'spec.color'; write it as for kubectl's --field-selector, as in spec.color=blue,metadata.name!=test`,
	},
	{
		reason:  "a field selector with sets, which are for labels",
		content: route("fieldSelector: spec.color in (red, blue)\n"),
		want:    `f:6:18: routes[0].fieldSelector: "spec.color in (red, blue)": not a field selector: can't understand ' blue)'; write it as for kubectl's --field-selector, as in spec.color=blue,metadata.name!=test`,
	},
	{
		reason:  "a field selector with a field that can be none",
		content: route("fieldSelector: 'spec..color=red'\n"),
		want:    `f:6:18: routes[0].fieldSelector: "spec..color=red": "spec..color" is not the name of a field; write metadata.name, metadata.namespace or one of the CRD's selectableFields, as in spec.color`,
	},
	{
		reason:  "a field selector without a field",
		content: route("fieldSelector: '=red'\n"),
		want:    `f:6:18: routes[0].fieldSelector: "=red": "" is not the name of a field; write metadata.name, metadata.namespace or one of the CRD's selectableFields, as in spec.color`,
	},
	{
		reason:  "an expression that ends too soon, as it is",
		content: route("when: object.spec.size >\n"),
		want:    "f:6:27: routes[0].when: Syntax error: mismatched input '<EOF>' expecting {'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}",
	},
	{
		reason:  "an expression with an unknown name, in double quotes",
		content: route("when: \"type == 'updated' && objekt.spec.size > 1\"\n"),
		want:    "f:6:31: routes[0].when: undeclared reference to 'objekt'",
	},
	{
		reason:  "an expression in quotes with quotes in it, which are written twice",
		content: route("when: 'type == ''updated'' && objekt.spec.size > 1'\n"),
		want:    "f:6:33: routes[0].when: undeclared reference to 'objekt'",
	},
	{
		reason:  "an expression of several lines",
		content: route("when: |\n  type == 'updated' &&\n    objekt.spec.size > 1\n"),
		want:    "f:8:7: routes[0].when: undeclared reference to 'objekt'",
	},
	{
		reason:  "a folded expression of several lines",
		content: route("when: >\n  type == 'updated' &&\n  objekt.spec.size > 1\n"),
		want:    "f:8:5: routes[0].when: undeclared reference to 'objekt'",
	},
	{
		reason:  "an expression that is no condition",
		content: route("when: '\"a\" + \"b\"'\n"),
		want:    "f:6:10: routes[0].when: its result is string; it has to be true or false",
	},
	{
		reason:  "an expression that compares types",
		content: route("when: type > 1\n"),
		want:    "f:6:14: routes[0].when: found no matching overload for '_>_' applied to '(string, int)'",
	},
	{
		reason:  "an expression with an unknown function",
		content: route("when: object.spec.name.capitalise() == 'A'\n"),
		want:    "f:6:36: routes[0].when: undeclared reference to 'capitalise'",
	},
	{
		reason:  "an expression that is a number to YAML",
		content: route("when: 1\n"),
		want:    `f:6:9: routes[0].when: 1: not a string; write it in quotes, as in "1"`,
	},
	{
		reason:  "an expression for ends alone",
		content: route("events: [deleted]\nwhen: object.spec.size > 1\n"),
		want:    "f:7:9: routes[0].when: nothing would ever be sent: deleted and deselected are only for objects of which something was sent before; add other types to events, or leave when out",
	},
	{
		reason:  "an expression from the environment of a list",
		content: good,
		environ: []string{"BRIDGE__ROUTES__0__WHEN=x"},
		want:    "environment: BRIDGE__ROUTES__0__WHEN: routes is a list, which cannot be set from the environment",
	},
	{
		reason:  "a misspelt key of changes",
		content: route("changes: {speconly: true}\n"),
		want:    "f:6:13: routes[0].changes.speconly: no such key; did you mean specOnly?",
	},
	{
		reason:  "a string for a boolean",
		content: route("changes: {specOnly: 'true'}\n"),
		want:    `f:6:23: routes[0].changes.specOnly: "true": not true or false; write it without quotes`,
	},
	{
		reason:  "a path that ends with a dot",
		content: route("changes: {ignore: [spec.]}\n"),
		want:    `f:6:27: routes[0].changes.ignore[0]: "spec.": not a field path: a name should be here; one that does not begin with a letter or _ is written as in ['example.com/key']`,
	},
	{
		reason:  "a path with a name that needs quotes",
		content: route("changes: {ignore: [spec.a, 'metadata.annotations.example.com/key']}\n"),
		want:    `f:6:63: routes[0].changes.ignore[1]: "metadata.annotations.example.com/key": not a field path: '/' where . or [ should be; a name with other characters than letters, digits, _ and - is written as in ['example.com/key']`,
	},
	{
		reason:  "a path with a bracket that is not closed",
		content: route("payload: {drop: ['spec.items[0']}\n"),
		want:    `f:6:31: routes[0].payload.drop[0]: "spec.items[0": not a field path: the bracket is not closed`,
	},
	{
		reason:  "a path with a quote that is not closed",
		content: route("payload:\n  drop:\n  - metadata.annotations['a]\n"),
		want:    `f:8:28: routes[0].payload.drop[0]: "metadata.annotations['a]": not a field path: the quote is not closed`,
	},
	{
		reason:  "a path with a name in brackets without quotes",
		content: route("payload:\n  drop:\n  - metadata.annotations[a]\n"),
		want:    `f:8:28: routes[0].payload.drop[0]: "metadata.annotations[a]": not a field path: after [ comes *, a number, or a name in quotes`,
	},
	{
		reason:  "a path with an index that no list has",
		content: route("payload: {drop: ['spec.items[99999999]']}\n"),
		want:    `f:6:32: routes[0].payload.drop[0]: "spec.items[99999999]": not a field path: 99999999: no list is as long; the highest index is 1048576`,
	},
	{
		reason:  "a JSONPath",
		content: route("payload: {drop: [.spec.items]}\n"),
		want:    `f:6:20: routes[0].payload.drop[0]: ".spec.items": not a field path: a path begins with a name, without a dot`,
	},
	{
		reason:  "an empty path",
		content: route("payload: {redact: ['']}\n"),
		want:    `f:6:23: routes[0].payload.redact[0]: "": not a field path: empty; write a path, as in spec.items[*].secret`,
	},
	{
		reason:  "the name is not for redaction",
		content: route("payload: {redact: [metadata.name]}\n"),
		want:    "f:6:22: routes[0].payload.redact[0]: metadata.name is or holds metadata.name, by which subscribers know the object; name what is to go more closely",
	},
	{
		reason:  "nor is all of the metadata for leaving out",
		content: route("payload: {drop: [metadata]}\n"),
		want:    "f:6:20: routes[0].payload.drop[0]: metadata is or holds metadata.name, by which subscribers know the object; name what is to go more closely",
	},
	{
		reason:  "nor is everything",
		content: route("payload: {drop: ['metadata[*]']}\n"),
		want:    "f:6:20: routes[0].payload.drop[0]: metadata[*] is or holds metadata.name, by which subscribers know the object; name what is to go more closely",
	},
	{
		reason:  "kept, and never left out",
		content: route("payload: {keep: [spec]}\n"),
		want:    "f:6:20: routes[0].payload.keep[0]: spec is not left out; what is, and can be kept, are metadata.managedFields and metadata.annotations['kubectl.kubernetes.io/last-applied-configuration']",
	},
	{
		reason:  "kept, with a copy of what is redacted",
		content: route("payload: {keep: [metadata.managedFields], redact: [spec.password]}\n"),
		want:    "f:6:20: routes[0].payload.keep[0]: metadata.managedFields may hold values that redact hides; leave out one of the two",
	},
	{
		reason:  "an unknown content",
		content: route("payload: {content: diff}\n"),
		want:    `f:6:22: routes[0].payload.content: "diff": write object, metadata or change`,
	},
	{
		reason:  "a misspelt key of the payload",
		content: route("payload: {redacted: [spec.password]}\n"),
		want:    "f:6:13: routes[0].payload.redacted: no such key; did you mean redact?",
	},
	{
		reason:  "an unknown type of event",
		content: route("events: [created, unselected]\n"),
		want:    `f:6:21: routes[0].events[1]: "unselected": write existing, created, updated, deleted or deselected`,
	},
	{
		reason:  "an expression in double quotes with an escape cannot be read beside the file",
		content: route("when: \"type == \\\"a\\\" && objekt.x > 1\"\n"),
		want:    "f:6:9: routes[0].when: line 1, column 16 of the expression: undeclared reference to 'objekt'",
	},
	{
		reason:  "an escape behind the place does no harm",
		content: route("when: \"objekt.x > 1 && type == \\\"a\\\"\"\n"),
		want:    "f:6:10: routes[0].when: undeclared reference to 'objekt'",
	},
	{
		reason:  "a folded expression with an empty line and a deeper one",
		content: route("when: >-\n  true &&\n\n    objekt.x > 1\n"),
		want:    "f:9:7: routes[0].when: undeclared reference to 'objekt'",
	},
	{
		reason:  "a block that says by how much it is indented",
		content: route("when: |2\n    true &&\n     objekt.x > 1\n"),
		want:    "f:8:8: routes[0].when: undeclared reference to 'objekt'",
	},
	{
		reason:  "an expression that goes on on another line",
		content: route("when: true &&\n  objekt.x > 1\n"),
		want:    "f:7:5: routes[0].when: undeclared reference to 'objekt'",
	},
	{
		reason:  "an expression in quotes that goes on on another line",
		content: route("when: 'true &&\n  objekt.x > 1'\n"),
		want:    "f:7:5: routes[0].when: undeclared reference to 'objekt'",
	},
	{
		reason:  "an expression behind an anchor",
		content: route("when: &a true && objekt.x > 1\n"),
		want:    "f:6:9: routes[0].when: line 1, column 9 of the expression: undeclared reference to 'objekt'",
	},
	{
		reason:  "an expression behind a byte order mark, and characters of several bytes",
		content: "\ufeff{cluster: demo, routes: [{name: a, crds: ['*'], when: '\"ä\" == objekt', sinks: [main]}], sinks: {main: {nats: {url: 'nats://a'}}}}\n",
		want:    "f:1:63: routes[0].when: undeclared reference to 'objekt'",
	},
	{
		reason:  "carriage returns are no characters of the expression",
		content: "cluster: demo\r\nroutes:\r\n- name: a\r\n  crds: ['*']\r\n  sinks: [main]\r\n  when: |\r\n    true &&\r\n    objekt\r\n" + goodSinks,
		want:    "f:8:5: routes[0].when: undeclared reference to 'objekt'",
	},
	{
		reason:  "a path with quotes that are written twice",
		content: route("payload: {drop: ['metadata.annotations[''a'']x']}\n"),
		want:    `f:6:48: routes[0].payload.drop[0]: "metadata.annotations['a']x": not a field path: 'x' where . or [ should be; a name with other characters than letters, digits, _ and - is written as in ['example.com/key']`,
	},
	{
		reason:  "namespaces that the field selector leaves out",
		content: route("namespaces: [a, b]\nfieldSelector: metadata.namespace=b\n"),
		want:    `f:6:16: routes[0].namespaces[0]: "a": fieldSelector, "metadata.namespace=b", leaves all of this namespace out; drop one of the two`,
	},
	{
		reason:  "a namespace that the field selector excludes",
		content: route("namespaces: [a, b]\nfieldSelector: metadata.namespace!=b\n"),
		want:    `f:6:19: routes[0].namespaces[1]: "b": fieldSelector, "metadata.namespace!=b", leaves all of this namespace out; drop one of the two`,
	},
	{
		reason:  "a null namespace",
		content: route("namespaces: [~]\n"),
		want:    "f:6:16: routes[0].namespaces[0]: null: not a string",
	},
	{
		reason:  "labels are selected by labelSelector",
		content: route("fieldSelector: metadata.labels.app=web\n"),
		want:    `f:6:18: routes[0].fieldSelector: "metadata.labels.app=web": "metadata.labels.app" is not the name of a field; write metadata.name, metadata.namespace or one of the CRD's selectableFields, as in spec.color`,
	},
	{
		reason:  "an element of a list is no selectable field",
		content: route("fieldSelector: 'spec.list[0]=a'\n"),
		want:    `f:6:18: routes[0].fieldSelector: "spec.list[0]=a": "spec.list[0]" is not the name of a field; write metadata.name, metadata.namespace or one of the CRD's selectableFields, as in spec.color`,
	},
	{
		reason:  "a field selector with a backslash before nothing that needs one",
		content: route("fieldSelector: 'spec.color=a\\b'\n"),
		want:    `f:6:18: routes[0].fieldSelector: "spec.color=a\\b": not a field selector: invalid escape sequence: \b; write it as for kubectl's --field-selector, as in spec.color=blue,metadata.name!=test`,
	},
	{
		reason:  "a label key with two prefixes; the regular expression of it helps nobody",
		content: route("labelSelector: 'A/B/C=x'\n"),
		want:    `f:6:18: routes[0].labelSelector: "A/B/C=x": not a label selector: "A/B/C": a valid label key must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character; write it as for kubectl's -l, as in app=web,tier in (a, b),!old`,
	},
	{
		reason:  "a label value that can be none",
		content: route("labelSelector: 'app=-web'\n"),
		want:    `f:6:18: routes[0].labelSelector: "app=-web": not a label selector: "-web": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character; write it as for kubectl's -l, as in app=web,tier in (a, b),!old`,
	},
	{
		reason:  "a set of labels that is not closed",
		content: route("labelSelector: 'a in (b,c'\n"),
		want:    `f:6:18: routes[0].labelSelector: "a in (b,c": not a label selector: found '', expected: ',' or ')'; write it as for kubectl's -l, as in app=web,tier in (a, b),!old`,
	},
	{
		reason:  "a number for a content",
		content: route("payload: {content: 1}\n"),
		want:    `f:6:22: routes[0].payload.content: 1: not a string; write it in quotes, as in "1"`,
	},
	{
		reason:  "an empty content is none",
		content: route("payload: {content: ''}\n"),
		want:    `f:6:22: routes[0].payload.content: "": write object, metadata or change`,
	},
	{
		reason:  "changes that are only named",
		content: route("changes: specOnly\n"),
		want:    `f:6:12: routes[0].changes: "specOnly": not a mapping`,
	},
	{
		reason:  "a field of everything may be any of those",
		content: route("payload: {redact: ['[*].uid']}\n"),
		want:    "f:6:22: routes[0].payload.redact[0]: [*].uid is or holds apiVersion, by which subscribers know the object; name what is to go more closely",
	},
}
