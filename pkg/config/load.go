package config

import (
	"fmt"
	"os"
	"reflect"

	"github.com/go-viper/mapstructure/v2"
	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/v2"
)

// Load reads the configuration in the file at settings.Path, with the variables of
// environ, which has the form of os.Environ, over it.
//
// Where the content is bad the error is an [*Error] with all its problems.
// Files that the configuration names are not opened.
func Load(path string, environ []string) (*Config, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	return load(path, content, environ)
}

// Parse is Load for content that has been read: file is its name in errors.
func Parse(file string, content []byte, environ []string) (*Config, error) {
	return load(file, content, environ)
}

func load(file string, content []byte, environ []string) (*Config, error) {
	r := newReport(file, content)
	root, ok := parse(content, r)
	if !ok {
		return nil, r.err()
	}
	fromFile := decoder{report: r}.document(root)
	fromEnvironment := environment(environ, fromFile, r)

	cfg, err := merge(fromFile, fromEnvironment)
	if err != nil {
		return nil, fmt.Errorf("configuration: %s: %w", file, err)
	}
	validate(cfg, r)
	if err := r.err(); err != nil {
		return nil, err
	}
	return cfg, nil
}

// merge puts the layers over each other, later over earlier, and over the
// defaults.
func merge(layers ...map[string]any) (*Config, error) {
	k := koanf.New("/") // in no key, and koanf is not asked for any by its path
	for _, layer := range layers {
		if err := k.Load(confmap.Provider(layer, ""), nil); err != nil {
			return nil, err
		}
	}
	cfg := &Config{}
	// The decoder has held everything against the same types already. Strict
	// as well, this finds where the two do not agree.
	err := k.UnmarshalWithConf("", cfg, koanf.UnmarshalConf{
		Tag: koanfTag,
		DecoderConfig: &mapstructure.DecoderConfig{
			DecodeHook:  setDefaults,
			ErrorUnused: true,
			MatchName:   func(key, field string) bool { return key == field },
		},
	})
	return cfg, err
}

// setDefaults has each struct begin with its defaults, also where it is an
// element of a list or a map, which a layer of defaults below the others could
// not reach. It leaves the input as it is.
func setDefaults(from, to reflect.Value) (any, error) {
	if to.CanSet() {
		if value, has := defaultOf(to.Type()); has {
			to.Set(value)
		}
	}
	return from.Interface(), nil
}
