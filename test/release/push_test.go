//go:build release

package release_test

import (
	"log/slog"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// TestPush has hack/image-push push a release to a registry on loopback, and
// looks whether what can be pulled has the digest that was built. One image
// stands for both architectures.
func TestPush(t *testing.T) {
	t.Parallel() // the tests beside it take long
	b := theBuild(t)
	server := httptest.NewServer(registry.New(registry.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo))))
	t.Cleanup(server.Close)
	repository := strings.TrimPrefix(server.URL, "http://") + "/crbridge/bridge"
	archive, err := os.ReadFile(b.file(".tar"))
	if err != nil {
		t.Fatal(err)
	}
	out := t.TempDir()
	const version = "v0.99.0"
	for _, arch := range []string{"amd64", "arm64"} {
		if err := os.WriteFile(filepath.Join(out, "bridge_0.99.0_image_linux_"+arch+".tar"), archive, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	push := exec.CommandContext(t.Context(), "hack/image-push")
	push.Dir = root
	push.Env = append(os.Environ(), "IMAGE="+repository, "VERSION="+version, "OUT="+out)
	if output, err := push.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", push, err, output)
	}

	built, err := b.open(t).Digest()
	if err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag(repository + ":" + version)
	if err != nil {
		t.Fatal(err)
	}
	index, err := remote.Index(tag, remote.WithContext(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(manifest.Manifests) != 2 {
		t.Fatalf("%s is an index of %d images, want two", tag, len(manifest.Manifests))
	}
	for _, m := range manifest.Manifests {
		if m.Digest != built {
			t.Errorf("pushed %s, built %s", m.Digest, built)
		}
		if m.Platform == nil || m.Platform.String() != "linux/"+b.arch {
			t.Errorf("the index says that the image is for %v, want linux/%s", m.Platform, b.arch)
		}
	}
}
