package object

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// BenchmarkFrame compares ways to learn who the object of a watch's event is: a
// frame of an object of 2 KiB, with the fields that its manager is said to own.
func BenchmarkFrame(b *testing.B) {
	text := frame(b)
	cases := []struct {
		name string
		read func([]byte) error
	}{
		{"scanner", func() func([]byte) error {
			var s Scanner
			return func(text []byte) error { _, _, err := s.Frame(text); return err }
		}()},
		{"jsontext, all of it checked, also for names that are there twice", func(text []byte) error {
			if !jsontext.Value(text).IsValid() {
				return ErrUnusual
			}
			return nil
		}},
		{"encoding/json, all of it checked, and nothing read", func(text []byte) error {
			if !json.Valid(text) {
				return ErrUnusual
			}
			return nil
		}},
		{"encoding/json, into what is needed", func(text []byte) error {
			var f struct {
				Type   string          `json:"type"`
				Object json.RawMessage `json:"object"`
			}
			if err := json.Unmarshal(text, &f); err != nil {
				return err
			}
			var who struct {
				Metadata struct{ Name, Namespace, UID, ResourceVersion string } `json:"metadata"`
			}
			return json.Unmarshal(f.Object, &who)
		}},
		{"client-go, unstructured", func(text []byte) error {
			var event metav1.WatchEvent
			if err := json.Unmarshal(text, &event); err != nil {
				return err
			}
			_, _, err := unstructured.UnstructuredJSONScheme.Decode(event.Object.Raw, nil, nil)
			return err
		}},
	}
	for _, c := range cases {
		b.Run(c.name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				if err := c.read(text); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func frame(b *testing.B) []byte {
	const fields = 2048 / 64
	spec, owned := map[string]any{}, map[string]any{}
	for i := range fields {
		name := fmt.Sprintf("field%03d", i)
		spec[name], owned["f:"+name] = strings.Repeat("x", 64-16), map[string]any{}
	}
	text, err := json.Marshal(map[string]any{"type": "MODIFIED", "object": map[string]any{
		"apiVersion": "bench.example.com/v1", "kind": "Thing", "spec": spec,
		"metadata": map[string]any{
			"name": "thing-000001", "namespace": "default", "uid": "096c777d-58c2-4584-bd70-8e4850a07570",
			"resourceVersion": "123456", "generation": 3, "creationTimestamp": "2026-11-23T00:00:00Z",
			"managedFields": []any{map[string]any{
				"manager": "bench", "operation": "Update", "apiVersion": "bench.example.com/v1", "time": "2026-11-23T00:00:00Z",
				"fieldsType": "FieldsV1", "fieldsV1": map[string]any{"f:spec": owned},
			}},
		},
	}})
	if err != nil {
		b.Fatal(err)
	}
	return text
}
