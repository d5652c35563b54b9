// Package config is what a user writes to the bridge: one YAML file, and
// environment variables over it. [Load] reads both strictly, and tells every
// problem that it finds with its place, the key, the value and what would be
// right.
//
// The structs are the only place where keys are written down: their koanf tags
// are the names, their doc comments what is said of a key wherever it is told,
// their rule tags what has to hold for its value. [Schema] and the tables of
// docs/configuration.md are made of them, by make generate.
package config
