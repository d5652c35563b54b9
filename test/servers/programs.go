//go:build unix

package servers

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
)

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
