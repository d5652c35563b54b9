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
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

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
	takes   time.Duration                 // of the first build, on two cores
	linkage func(version string) []string // what -ldflags has besides -s -w
}

func (s Server) source() (source, error) {
	switch s {
	case KubeAPIServer:
		return source{
			folder: "kubernetes", module: "k8s.io/kubernetes", main: "k8s.io/kubernetes/cmd/kube-apiserver",
			takes: 4 * time.Minute, linkage: kubernetesVersion,
		}, nil
	case KubeControllerManager, KubeScheduler, Kubelet, Kubectl:
		return source{
			folder: "kubernetes", module: "k8s.io/kubernetes", main: "k8s.io/kubernetes/cmd/" + string(s),
			takes: 45 * time.Second, linkage: kubernetesVersion,
		}, nil
	case Etcd:
		return source{
			folder: "etcd", module: "go.etcd.io/etcd/server/v3", main: "go.etcd.io/etcd/server/v3",
			takes: time.Minute,
		}, nil
	case NATSServer:
		return source{
			folder: "nats", module: "github.com/nats-io/nats-server/v2", main: "github.com/nats-io/nats-server/v2",
			takes: 30 * time.Second,
		}, nil
	case Helm:
		return source{
			folder: "helm", module: "helm.sh/helm/v4", main: "helm.sh/helm/v4/cmd/helm",
			takes: 2 * time.Minute,
		}, nil
	case NATS:
		return source{
			folder: "natscli", module: "github.com/nats-io/natscli", main: "github.com/nats-io/natscli/nats",
			takes: time.Minute,
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

// Path returns the path of s's executable, as Paths does.
func Path(ctx context.Context, s Server, progress io.Writer) (string, error) {
	paths, err := Paths(ctx, progress, s)
	if err != nil {
		return "", err
	}
	return paths[0], nil
}

// Paths returns the paths of the executables, in the order of their names, and
// builds first those that are not in the cache. What it does meanwhile is told
// on progress, which may be nil. Those of one module are built at once: while one
// is linked, which keeps one core busy, another is compiled.
//
// kube-apiserver and etcd are taken from the directory that KUBEBUILDER_ASSETS
// names, if it is set; that one of them is not there is an error then. The other
// parts of Kubernetes are never in it.
func Paths(ctx context.Context, progress io.Writer, all ...Server) ([]string, error) {
	if progress == nil {
		progress = io.Discard
	}
	paths := make([]string, len(all))
	var folders []string // in the order in which they are asked for
	missing := map[string][]Server{}
	for i, s := range all {
		if dir := os.Getenv(assetsEnv); dir != "" && (s == KubeAPIServer || s == Etcd) {
			var err error
			if paths[i], err = asset(dir, s); err != nil {
				return nil, err
			}
			continue
		}
		src, err := s.source()
		if err != nil {
			return nil, err
		}
		if paths[i], err = cached(ctx, s, src); err != nil {
			return nil, fmt.Errorf("%s: %w", s, err)
		}
		if isExecutable(paths[i]) || slices.Contains(missing[src.folder], s) {
			continue
		}
		if missing[src.folder] == nil {
			folders = append(folders, src.folder)
		}
		missing[src.folder] = append(missing[src.folder], s)
	}
	for _, folder := range folders {
		if err := buildOnce(ctx, missing[folder], progress); err != nil {
			return nil, fmt.Errorf("%s: %w", names(missing[folder]), err)
		}
	}
	return paths, nil
}

func names(all []Server) string {
	var list []string
	for _, s := range all {
		list = append(list, string(s))
	}
	return strings.Join(list, ", ")
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
func cached(ctx context.Context, s Server, src source) (string, error) {
	dir, err := moduleDir(src)
	if err != nil {
		return "", err
	}
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

// moduleDir is the folder of the module that pins a server.
func moduleDir(src source) (string, error) {
	root, err := testModule()
	if err != nil {
		return "", err
	}
	return filepath.Join(root, "servers", src.folder), nil
}

// buildOnce builds servers of one module, unless another process does so while it
// waits.
func buildOnce(ctx context.Context, all []Server, progress io.Writer) error {
	src, err := all[0].source()
	if err != nil {
		return err
	}
	dir, err := moduleDir(src)
	if err != nil {
		return err
	}
	target, err := cached(ctx, all[0], src)
	if err != nil {
		return err
	}
	to := filepath.Dir(target)
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	unlock, err := flock.Lock(ctx, filepath.Join(to, "lock"), func() {
		fmt.Fprintf(progress, "%s: another process is building; waiting\n", names(all))
	})
	if err != nil {
		return err
	}
	defer unlock()

	var packages []string
	var takes time.Duration
	missing := slices.DeleteFunc(slices.Clone(all), func(s Server) bool { return isExecutable(filepath.Join(to, string(s))) })
	for _, s := range missing {
		src, err := s.source()
		if err != nil {
			return err
		}
		packages, takes = append(packages, src.main), takes+src.takes
	}
	if len(missing) == 0 {
		return nil
	}
	version, err := goOutput(ctx, dir, "list", "-mod=readonly", "-m", "-f", "{{.Version}}", src.module)
	if err != nil {
		return err
	}
	name := names(missing) + " " + version
	fmt.Fprintf(progress, "%s: building (the first time takes about %.1f minutes; kept in %s)\n", name, takes.Minutes(), to)
	linkage := []string{"-s", "-w"}
	if src.linkage != nil {
		linkage = append(linkage, src.linkage(version)...)
	}
	// A build that is cut short leaves this folder; the next one uses it again,
	// under the same lock.
	partial := filepath.Join(to, "partial")
	if err := os.MkdirAll(partial, 0o755); err != nil {
		return err
	}
	args := []string{"-mod=readonly", "-trimpath", "-ldflags=" + strings.Join(linkage, " "), "-o", partial + string(filepath.Separator)}
	if err := goBuild(ctx, goBuildOptions{name: name, dir: dir, env: buildEnv(), args: append(args, packages...)}, progress); err != nil {
		return err
	}
	for i, s := range missing {
		// go build names an executable after its package's path.
		if err := os.Rename(filepath.Join(partial, executable(packages[i])), filepath.Join(to, string(s))); err != nil {
			return err
		}
	}
	return os.RemoveAll(partial)
}

// major is the last element of the path of a module from its second major version
// on.
var major = regexp.MustCompile(`^v[0-9]+$`)

// executable is what go build calls the executable of a main package.
func executable(pkg string) string {
	if major.MatchString(path.Base(pkg)) {
		pkg = path.Dir(pkg)
	}
	return path.Base(pkg)
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
