//go:build release

package release_test

import (
	"archive/tar"
	"bytes"
	"debug/buildinfo"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// built is what hack/image was told when it built the image, and where that is.
type built struct{ image, version, commit, epoch, arch, folder string }

// theBuild is the one that the variables of hack/image speak of; the Makefile
// sets them.
func theBuild(t *testing.T) built {
	t.Helper()
	of := func(name string) string {
		value := os.Getenv(name)
		if value == "" {
			t.Fatalf("%s is not set: run make test-release", name)
		}
		return value
	}
	return built{of("IMAGE"), of("VERSION"), of("COMMIT"), of("SOURCE_DATE_EPOCH"), of("ARCH"), filepath.Join(root, of("OUT"))}
}

func (b built) file(suffix string) string {
	return filepath.Join(b.folder, "bridge-linux-"+b.arch+suffix)
}

// TestImage looks at everything that is in the image, and runs its binary out
// of its own file system.
func TestImage(t *testing.T) {
	t.Parallel() // the tests beside it take long
	b := theBuild(t)
	image := b.open(t)

	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if got := config.OS + "/" + config.Architecture; got != "linux/"+b.arch {
		t.Errorf("the image is for %s, want linux/%s", got, b.arch)
	}
	if got := config.Created.UTC().Format(time.RFC3339); got != b.time(t).Format(time.RFC3339) {
		t.Errorf("created %s, want the commit's time, %s", got, b.time(t).Format(time.RFC3339))
	}
	want := v1.Config{
		User:         "65532:65532",
		Env:          []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		Entrypoint:   []string{"/bridge"},
		Cmd:          []string{"run", "--config", "/etc/crbridge/config.yaml"},
		ExposedPorts: map[string]struct{}{"8080/tcp": {}, "8081/tcp": {}},
		Labels: map[string]string{
			"org.opencontainers.image.title":       "crbridge",
			"org.opencontainers.image.description": "Every change of your Kubernetes custom resources, as a CloudEvent in NATS",
			"org.opencontainers.image.source":      "https://github.com/crbridge/crbridge",
			"org.opencontainers.image.licenses":    "Apache-2.0",
			"org.opencontainers.image.version":     b.version,
			"org.opencontainers.image.revision":    b.commit,
		},
	}
	if diff := cmp.Diff(want, config.Config); diff != "" {
		t.Errorf("the image's configuration (-want +got):\n%s", diff)
	}

	files := unpack(t, image, b.time(t))
	if diff := cmp.Diff(map[string]string{
		"etc":                               "drwxr-xr-x 0:0",
		"etc/ssl":                           "drwxr-xr-x 0:0",
		"etc/ssl/certs":                     "drwxr-xr-x 0:0",
		"etc/ssl/certs/ca-certificates.crt": "-rw-r--r-- 0:0",
		"LICENSE":                           "-rw-r--r-- 0:0",
		"bridge":                            "-rwxr-xr-x 0:0",
	}, files.modes); diff != "" {
		t.Errorf("files in the image (-want +got):\n%s", diff)
	}
	license, err := os.ReadFile(filepath.Join(root, "LICENSE"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(license, files.read(t, "LICENSE")) {
		t.Error("the LICENSE in the image is not that of the tree")
	}
	if !bytes.Contains(files.read(t, "etc/ssl/certs/ca-certificates.crt"), []byte("-----BEGIN CERTIFICATE-----")) {
		t.Error("there is no CA certificate in the image")
	}
	beside, err := os.ReadFile(b.file(""))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(beside, files.read(t, "bridge")) {
		t.Errorf("%s is not the binary that is in the image", b.file(""))
	}
	b.checkBinary(t, filepath.Join(files.dir, "bridge"))
}

// checkBinary looks whether the binary needs anything of the system, and where
// this machine can, runs it.
func (b built) checkBinary(t *testing.T, binary string) {
	t.Helper()
	file, err := elf.Open(binary)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if want := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[b.arch]; file.Machine != want {
		t.Errorf("the binary is for %v, want %v", file.Machine, want)
	}
	for _, program := range file.Progs {
		if program.Type == elf.PT_INTERP || program.Type == elf.PT_DYNAMIC {
			t.Errorf("the binary is not static: it has a segment %v", program.Type)
		}
	}
	if b.arch != runtime.GOARCH {
		return
	}
	output, err := exec.CommandContext(t.Context(), binary, "version").Output()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(output), "bridge "+b.version+" (commit "+b.commit+", "; !strings.HasPrefix(got, want) {
		t.Errorf("bridge version: %q, want %q…", got, want)
	}
}

// TestBillOfMaterials compares it with what the binary says that it is made of.
func TestBillOfMaterials(t *testing.T) {
	t.Parallel() // the tests beside it take long
	b := theBuild(t)
	content, err := os.ReadFile(b.file(".cdx.json"))
	if err != nil {
		t.Fatal(err)
	}
	var bill struct {
		BOMFormat string `json:"bomFormat"`
		Metadata  struct {
			Component struct{ Name, Version string }
		}
		Components []struct {
			Name, Version string
			Hashes        []struct{ Alg, Content string }
		}
	}
	if err := json.Unmarshal(content, &bill); err != nil {
		t.Fatal(err)
	}
	if of := bill.Metadata.Component; bill.BOMFormat != "CycloneDX" || of.Name != "github.com/crbridge/crbridge" || of.Version != b.version {
		t.Errorf("%s of %s %s, want CycloneDX of github.com/crbridge/crbridge %s", bill.BOMFormat, of.Name, of.Version, b.version)
	}
	var got []string
	for _, c := range bill.Components {
		got = append(got, c.Name+" "+c.Version)
		if len(c.Hashes) == 0 && c.Name != "std" {
			t.Errorf("%s has no hash", c.Name)
		}
	}
	info, err := buildinfo.ReadFile(b.file(""))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"std " + info.GoVersion}
	for _, module := range info.Deps {
		want = append(want, module.Path+" "+module.Version)
	}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("modules (-in the binary +in the bill):\n%s", diff)
	}
}

// TestReproducible builds the image again as somebody else would: from a copy
// of the tree elsewhere, whose files have other times and, by another umask,
// other permissions, and with a store of its own. It has to be the same bytes.
// Packages that were compiled before are lent to it: that Go compiles the same
// twice is Go's promise, and takes minutes to see.
func TestReproducible(t *testing.T) {
	t.Parallel() // it waits for the compiler, most of the time
	b := theBuild(t)
	again := b
	again.folder = t.TempDir()
	build := exec.CommandContext(t.Context(), "hack/image")
	build.Dir = copyTree(t)
	build.Env = append(os.Environ(), "OUT="+again.folder, "XDG_CACHE_HOME="+t.TempDir(), "GOCACHE="+goCache(t))
	build.WaitDelay = time.Minute
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", build, err, output)
	}
	digest := func(b built) string {
		hash, err := b.open(t).Digest()
		if err != nil {
			t.Fatal(err)
		}
		return hash.String()
	}
	if first, second := digest(b), digest(again); first != second {
		t.Errorf("two builds of the same image have the digests %s and %s", first, second)
	}
	for _, suffix := range []string{"", ".tar", ".cdx.json"} {
		first, err := os.ReadFile(b.file(suffix))
		if err != nil {
			t.Fatal(err)
		}
		second, err := os.ReadFile(again.file(suffix))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(first, second) {
			t.Errorf("two builds of %s differ", filepath.Base(b.file(suffix)))
		}
	}
}

func goCache(t *testing.T) string {
	t.Helper()
	output, err := exec.CommandContext(t.Context(), "go", "env", "GOCACHE").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(output))
}

// open reads the image's archive, with every digest in it checked.
func (b built) open(t *testing.T) v1.Image {
	t.Helper()
	dir := t.TempDir()
	archive, err := os.Open(b.file(".tar"))
	if err != nil {
		t.Fatalf("%v: run make image-local", err)
	}
	defer archive.Close()
	extract(t, archive, dir, func(*tar.Header) {})
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(manifest.Manifests) != 1 {
		t.Fatalf("%s has %d images, want one", b.file(".tar"), len(manifest.Manifests))
	}
	// By this name containerd and podman know the image once they have loaded it.
	if got, want := manifest.Manifests[0].Annotations["org.opencontainers.image.ref.name"], b.image+":"+b.version; got != want {
		t.Errorf("the image's name is %q, want %q", got, want)
	}
	image, err := index.Image(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

func (b built) time(t *testing.T) time.Time {
	t.Helper()
	seconds, err := time.ParseDuration(b.epoch + "s")
	if err != nil {
		t.Fatal(err)
	}
	return time.Unix(0, 0).Add(seconds).UTC()
}

// rootfs is an image's file system, unpacked.
type rootfs struct {
	dir   string
	modes map[string]string // by path: permissions and owner
}

// unpack also looks whether all has the one time.
func unpack(t *testing.T, image v1.Image, at time.Time) rootfs {
	t.Helper()
	fs := rootfs{t.TempDir(), make(map[string]string)}
	content := mutate.Extract(image)
	defer content.Close()
	extract(t, content, fs.dir, func(h *tar.Header) {
		fs.modes[path.Clean(h.Name)] = fmt.Sprintf("%v %d:%d", h.FileInfo().Mode(), h.Uid, h.Gid)
		if !h.ModTime.Equal(at) {
			t.Errorf("%s is of %v, want %v", h.Name, h.ModTime.UTC(), at)
		}
	})
	return fs
}

func (fs rootfs) read(t *testing.T, name string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(fs.dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// extract writes the folders and files of a tar archive to dir, and shows each.
func extract(t *testing.T, archive io.Reader, dir string, show func(*tar.Header)) {
	t.Helper()
	for r := tar.NewReader(archive); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		show(h)
		to := filepath.Join(dir, filepath.FromSlash(path.Clean("/"+h.Name)))
		switch h.Typeflag {
		case tar.TypeDir:
			err = os.MkdirAll(to, 0o700)
		case tar.TypeReg:
			var content []byte
			if content, err = io.ReadAll(r); err == nil {
				err = os.WriteFile(to, content, h.FileInfo().Mode().Perm())
			}
		default:
			t.Errorf("%s is neither a file nor a folder", h.Name)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
