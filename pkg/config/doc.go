// Package config is what a user writes to the bridge: one YAML file, and
// environment variables over it. [Load] reads both strictly, and tells every
// problem that it finds with its place, the key, the value and what would be
// right.
//
// The structs' koanf tags are the only place where the names of keys are
// written down; their doc comments are the reference of the keys.
package config
