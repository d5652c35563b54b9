//go:build linux

package node

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

// ProgramImage writes an OCI archive at archive, of an image for this machine
// whose only file is that static program, and which runs it.
func ProgramImage(archive, program string) error {
	content, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	entrypoint := "/" + filepath.Base(program)
	var layer bytes.Buffer
	if err := writeTar(&layer, file{entrypoint[1:], 0o755, content}); err != nil {
		return err
	}
	layout := ociLayout{}
	config := layout.blob(map[string]any{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"config":       map[string]any{"Entrypoint": []string{entrypoint}},
		"rootfs":       map[string]any{"type": "layers", "diff_ids": []string{digest(layer.Bytes())}},
	})
	manifest := layout.blob(map[string]any{
		"schemaVersion": 2,
		"mediaType":     "application/vnd.oci.image.manifest.v1+json",
		"config":        config.as("application/vnd.oci.image.config.v1+json"),
		"layers":        []descriptor{layout.raw(layer.Bytes()).as("application/vnd.oci.image.layer.v1.tar")},
	})
	layout.file("index.json", map[string]any{
		"schemaVersion": 2,
		"mediaType":     "application/vnd.oci.image.index.v1+json",
		"manifests":     []descriptor{manifest.as("application/vnd.oci.image.manifest.v1+json")},
	})
	layout.file("oci-layout", map[string]any{"imageLayoutVersion": "1.0.0"})
	var out bytes.Buffer
	if err := writeTar(&out, layout.files...); err != nil {
		return err
	}
	return os.WriteFile(archive, out.Bytes(), 0o600)
}

// ociLayout gathers the files of an OCI image layout.
type ociLayout struct{ files []file }

// descriptor is how one blob of a layout refers to another.
type descriptor struct {
	MediaType string `json:"mediaType"`
	Digest    string `json:"digest"`
	Size      int    `json:"size"`
}

func (d descriptor) as(mediaType string) descriptor {
	d.MediaType = mediaType
	return d
}

func (l *ociLayout) raw(content []byte) descriptor {
	d := descriptor{Digest: digest(content), Size: len(content)}
	l.files = append(l.files, file{"blobs/sha256/" + d.Digest[len("sha256:"):], 0o644, content})
	return d
}

func (l *ociLayout) blob(value map[string]any) descriptor { return l.raw(mustJSON(value)) }

func (l *ociLayout) file(name string, value map[string]any) {
	l.files = append(l.files, file{name, 0o644, mustJSON(value)})
}

// mustJSON encodes maps of what JSON has.
func mustJSON(value map[string]any) []byte {
	content, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	return content
}

func digest(content []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(content)) }

type file struct {
	name    string
	mode    int64
	content []byte
}

func writeTar(to *bytes.Buffer, files ...file) error {
	w := tar.NewWriter(to)
	for _, f := range files {
		if err := w.WriteHeader(&tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.content)), Format: tar.FormatUSTAR}); err != nil {
			return err
		}
		if _, err := w.Write(f.content); err != nil {
			return err
		}
	}
	return w.Close()
}
