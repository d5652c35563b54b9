//go:build unix

// Package servers builds the real servers that the tests and the demo run:
// kube-apiserver, etcd and nats-server, for a node the other parts of
// Kubernetes, and the commands kubectl and helm, each from the Go module below
// this folder that pins its version.
// Nothing but the go command is needed.
//
// A server is built once and then found in the user's cache directory, under a
// key made of all that the build depends on. Processes that ask at the same
// time wait for one build.
package servers

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/crbridge/crbridge/test/flock"
)

// Server names a server that Path can build.
type Server string

// The servers, by the names of their executables.
const (
	KubeAPIServer Server = "kube-apiserver"
	Etcd          Server = "etcd"
	NATSServer    Server = "nats-server"

	// Of a node, for package node.
	KubeControllerManager Server = "kube-controller-manager"
	KubeScheduler         Server = "kube-scheduler"
	Kubelet               Server = "kubelet"

	// Commands, which serve nobody, but are built alike.
	Kubectl Server = "kubectl"
	Helm    Server = "helm"
	NATS    Server = "nats"
)

// All returns every server that most tests need, the one that takes longest to
// build first. The others have to be asked for by their names.
func All() []Server { return []Server{KubeAPIServer, Etcd, NATSServer} }

// assetsEnv names the directory of ready-made executables of kube-apiserver and
// etcd. It is controller-runtime envtest's variable.
const assetsEnv = "KUBEBUILDER_ASSETS"

// source says where a server is built from.
type source struct {
	folder  string                        // of the module that pins it, below this package's
	module  string                        // whose version is the server's
	main    string                        // the main package
	takes   string                        // how long the first build takes on two cores
	linkage func(version string) []string // what -ldflags has besides -s -w
}

func (s Server) source() (source, error) {
	switch s {
	case KubeAPIServer:
		return source{
			folder: "kubernetes", module: "k8s.io/kubernetes", main: "k8s.io/kubernetes/cmd/kube-apiserver",
			takes: "about 4 minutes", linkage: kubernetesVersion,
		}, nil
	case KubeControllerManager, KubeScheduler, Kubelet, Kubectl:
		return source{
			folder: "kubernetes", module: "k8s.io/kubernetes", main: "k8s.io/kubernetes/cmd/" + string(s),
			takes: "about a minute", linkage: kubernetesVersion,
		}, nil
	case Etcd:
		return source{
			folder: "etcd", module: "go.etcd.io/etcd/server/v3", main: "go.etcd.io/etcd/server/v3",
			takes: "about a minute",
		}, nil
	case NATSServer:
		return source{
			folder: "nats", module: "github.com/nats-io/nats-server/v2", main: "github.com/nats-io/nats-server/v2",
			takes: "about half a minute",
		}, nil
	case Helm:
		return source{
			folder: "helm", module: "helm.sh/helm/v4", main: "helm.sh/helm/v4/cmd/helm",
			takes: "about 2 minutes",
		}, nil
	case NATS:
		return source{
			folder: "natscli", module: "github.com/nats-io/natscli", main: "github.com/nats-io/natscli/nats",
			takes: "about a minute",
		}, nil
	default:
		return source{}, fmt.Errorf("unknown server %q", string(s))
	}
}

// kubernetesVersion stamps a Kubernetes binary as hack/lib/version.sh does.
// Without it the server reports v0.0.0-master, which clients that look at the
// version take for a server too old to talk to.
func kubernetesVersion(version string) []string {
	major, rest, _ := strings.Cut(strings.TrimPrefix(version, "v"), ".")
	minor, _, _ := strings.Cut(rest, ".")
	var flags []string
	for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		flags = append(flags,
			"-X", pkg+".gitVersion="+version,
			"-X", pkg+".gitMajor="+major,
			"-X", pkg+".gitMinor="+minor,
		)
	}
	return flags
}

// Path returns the path of s's executable, and builds it first if it is not in
// the cache. What it does meanwhile is told on progress, which may be nil.
//
// kube-apiserver and etcd are taken from the directory that KUBEBUILDER_ASSETS
// names, if it is set; that one of them is not there is an error then. The other
// parts of Kubernetes are never in it.
func Path(ctx context.Context, s Server, progress io.Writer) (string, error) {
	if progress == nil {
		progress = io.Discard
	}
	if dir := os.Getenv(assetsEnv); dir != "" && (s == KubeAPIServer || s == Etcd) {
		return asset(dir, s)
	}
	src, err := s.source()
	if err != nil {
		return "", err
	}
	root, err := testModule()
	if err != nil {
		return "", fmt.Errorf("%s: %w", s, err)
	}
	dir := filepath.Join(root, "servers", src.folder)
	target, err := cached(ctx, s, dir)
	if err != nil {
		return "", fmt.Errorf("%s: %w", s, err)
	}
	if isExecutable(target) {
		return target, nil
	}
	if err := buildOnce(ctx, s, src, dir, target, progress); err != nil {
		return "", fmt.Errorf("%s: %w", s, err)
	}
	return target, nil
}

func asset(dir string, s Server) (string, error) {
	path, err := filepath.Abs(filepath.Join(dir, string(s)))
	if err != nil {
		return "", fmt.Errorf("%s=%s: %w", assetsEnv, dir, err)
	}
	if !isExecutable(path) {
		return "", fmt.Errorf("%s=%s: no executable %s in it", assetsEnv, dir, s)
	}
	return path, nil
}

// cached returns where s's executable is, or will be: its folder's name has a
// hash of everything that decides what the executable is.
func cached(ctx context.Context, s Server, dir string) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no place for built servers: %w", err)
	}
	goVersion, err := goOutput(ctx, dir, "env", "GOVERSION")
	if err != nil {
		return "", err
	}
	hash := sha256.New()
	fmt.Fprintf(hash, "%s %s %s %s\n", recipe, goVersion, runtime.GOOS, runtime.GOARCH)
	for _, name := range []string{"go.mod", "go.sum"} {
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return "", err
		}
		fmt.Fprintf(hash, "%s %d\n%s", name, len(content), content)
	}
	key := hex.EncodeToString(hash.Sum(nil))[:16]
	return filepath.Join(cache, "crbridge", "servers", key, string(s)), nil
}

// buildOnce builds s at target, unless another process does so while it waits.
func buildOnce(ctx context.Context, s Server, src source, dir, target string, progress io.Writer) (err error) {
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	unlock, err := flock.Lock(ctx, target+".lock", func() {
		fmt.Fprintf(progress, "%s: another process is building it; waiting\n", s)
	})
	if err != nil {
		return err
	}
	defer unlock()
	if isExecutable(target) {
		return nil
	}

	version, err := goOutput(ctx, dir, "list", "-mod=readonly", "-m", "-f", "{{.Version}}", src.module)
	if err != nil {
		return err
	}
	fmt.Fprintf(progress, "%s %s: building (the first time takes %s; kept in %s)\n", s, version, src.takes, filepath.Dir(target))
	linkage := []string{"-s", "-w"}
	if src.linkage != nil {
		linkage = append(linkage, src.linkage(version)...)
	}
	// A build that is cut short leaves this file; the next one overwrites it,
	// under the same lock.
	partial := target + ".partial"
	err = goBuild(ctx, goBuildOptions{
		name: string(s) + " " + version,
		dir:  dir,
		env:  buildEnv(),
		args: []string{"-mod=readonly", "-trimpath", "-ldflags=" + strings.Join(linkage, " "), "-o", partial, src.main},
	}, progress)
	if err != nil {
		return err
	}
	return os.Rename(partial, target)
}

// recipe names the way in which buildOnce builds; it is part of the cache's
// key, so change it with buildOnce or buildEnv.
const recipe = "1: CGO_ENABLED=0 -trimpath -s -w"

// buildEnv is the environment in which a server is built: without cgo, so that
// no C compiler is needed, and for this machine, whatever the user's
// environment is set up to build for.
func buildEnv() []string {
	return append(os.Environ(),
		"CGO_ENABLED=0", "GOWORK=off", "GOOS="+runtime.GOOS, "GOARCH="+runtime.GOARCH)
}

// BuildBridge builds cmd/bridge of the tree that the working directory is in,
// puts it into dir and returns its path. The flags are added to go build's, for
// example -race. What it does is told on progress, which may be nil.
func BuildBridge(ctx context.Context, dir string, progress io.Writer, flags ...string) (string, error) {
	if progress == nil {
		progress = io.Discard
	}
	root, err := testModule()
	if err != nil {
		return "", fmt.Errorf("bridge: %w", err)
	}
	path, err := filepath.Abs(filepath.Join(dir, "bridge"))
	if err != nil {
		return "", fmt.Errorf("bridge: %w", err)
	}
	err = goBuild(ctx, goBuildOptions{
		name: "bridge",
		dir:  filepath.Dir(root),
		env:  append(os.Environ(), "GOWORK=off"),
		args: append(append([]string{"-mod=readonly"}, flags...), "-o", path, "./cmd/bridge"),
	}, progress)
	if err != nil {
		return "", fmt.Errorf("bridge: %w", err)
	}
	return path, nil
}

// BuildBridgeOf builds cmd/bridge as it was at a commit of the repository that
// the working directory is in, puts it into dir and returns its path. A clone
// that is too shallow to have the commit is an error.
func BuildBridgeOf(ctx context.Context, commit, dir string, progress io.Writer) (string, error) {
	root, err := testModule()
	if err != nil {
		return "", fmt.Errorf("bridge of %s: %w", commit, err)
	}
	sources := filepath.Join(dir, "sources")
	if err := extract(ctx, filepath.Dir(root), commit, sources); err != nil {
		return "", fmt.Errorf("bridge of %s: %w", commit, err)
	}
	path, err := filepath.Abs(filepath.Join(dir, "bridge"))
	if err != nil {
		return "", fmt.Errorf("bridge of %s: %w", commit, err)
	}
	err = goBuild(ctx, goBuildOptions{
		name: "bridge of " + commit,
		dir:  sources,
		env:  append(os.Environ(), "GOWORK=off"),
		args: []string{"-mod=readonly", "-buildvcs=false", "-o", path, "./cmd/bridge"},
	}, progress)
	if err != nil {
		return "", fmt.Errorf("bridge of %s: %w", commit, err)
	}
	return path, nil
}

// extract writes the tree of a commit to a folder.
func extract(ctx context.Context, repository, commit, to string) error {
	archive := exec.CommandContext(ctx, "git", "archive", "--format=tar", commit, "go.mod", "go.sum", "cmd", "internal", "pkg")
	archive.Dir = repository
	var said bytes.Buffer
	archive.Stderr = &said
	content, err := archive.Output()
	if err != nil {
		return fmt.Errorf("git archive in %s: %w: %s(it takes a clone with the whole history: git fetch --unshallow)", repository, err, said.String())
	}
	for r := tar.NewReader(bytes.NewReader(content)); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if header.Typeflag != tar.TypeReg || !filepath.IsLocal(header.Name) {
			continue
		}
		path := filepath.Join(to, header.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			return err
		}
		file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(file, r)
		if err := errors.Join(err, file.Close()); err != nil {
			return err
		}
	}
}

// BuildProgram builds a program of the test module for this machine, static,
// from the package at that path below the module's folder, such as "node/init",
// and puts it at target.
func BuildProgram(ctx context.Context, target, pkg string, progress io.Writer) error {
	if progress == nil {
		progress = io.Discard
	}
	root, err := testModule()
	if err != nil {
		return fmt.Errorf("%s: %w", pkg, err)
	}
	err = goBuild(ctx, goBuildOptions{
		name: pkg,
		dir:  root,
		env:  buildEnv(),
		args: []string{"-mod=readonly", "-trimpath", "-ldflags=-s -w", "-o", target, "./" + pkg},
	}, progress)
	if err != nil {
		return fmt.Errorf("%s: %w", pkg, err)
	}
	return nil
}

// testModule returns the directory of the module that this package is in. It is
// looked for from the working directory upwards, so that it is found by tests,
// by go run and by a program that is called at the top of the tree.
func testModule() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		for _, candidate := range []string{dir, filepath.Join(dir, "test")} {
			content, err := os.ReadFile(filepath.Join(candidate, "go.mod"))
			if err == nil && strings.HasPrefix(string(content), "module github.com/crbridge/crbridge/test\n") {
				return candidate, nil
			}
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("%s is not inside a crbridge source tree", start)
		}
	}
}

func isExecutable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0
}

// goOutput runs a go command that prints one line, and returns that line.
func goOutput(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = buildEnv()
	out, err := cmd.Output()
	if err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
		}
		return "", fmt.Errorf("go %s in %s: %w", strings.Join(args, " "), dir, err)
	}
	return strings.TrimSpace(string(out)), nil
}
