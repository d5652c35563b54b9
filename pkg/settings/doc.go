// Package settings is what the keys of a configuration are made of, for whoever
// has some: the bridge as a whole (pkg/config) and each kind of sink. A struct's
// koanf tags are the names of keys, its doc comments what is said of a key
// wherever it is told, its rule tags what has to hold for its value (see
// [Rule]); a type may have words ([Worded]) and defaults ([Defaulted]).
package settings
