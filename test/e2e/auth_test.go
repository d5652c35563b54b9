//go:build unix

package e2e_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/crbridge/crbridge/test/controlplane"
)

// login is one way in which a bridge says who it is, to a server that lets
// nobody else in. The server is reconfigured, and the bridge's files change, as
// when somebody rotates a secret.
type login struct {
	// server has the server's configuration, before and after: each lets in
	// whom the files of the same index are of, and the observer.
	server [2]string
	// keys are the sink's, with their values; files their content, by path.
	keys     string
	files    [2]map[string]string
	observer []nats.Option
	// refused is said where the files do not fit the server.
	refused string
}

const (
	firstSecret, secondSecret = "first-secret-of-the-bridge", "second-secret-of-the-bridge"
	look                      = "observer"
)

func passwords(_ *testing.T, dir string) login {
	user, password := filepath.Join(dir, "user"), filepath.Join(dir, "password")
	server := func(name, secret string) string {
		return fmt.Sprintf("authorization {users: [{user: %s, password: %q}, {user: %s, password: %s}]}", name, secret, look, look)
	}
	return login{
		server: [2]string{server("one", firstSecret), server("two", secondSecret)},
		keys:   fmt.Sprintf("auth: {userFile: %q, passwordFile: %q}", user, password),
		files: [2]map[string]string{
			{user: "one\n", password: firstSecret + "\n"},
			{user: "two\n", password: secondSecret + "\n"},
		},
		observer: []nats.Option{nats.UserInfo(look, look)},
		refused:  "the server refuses the user and password in",
	}
}

func tokens(_ *testing.T, dir string) login {
	path := filepath.Join(dir, "token")
	token := firstSecret
	return login{
		server: [2]string{
			fmt.Sprintf("authorization {token: %q}", firstSecret),
			fmt.Sprintf("authorization {token: %q}", secondSecret),
		},
		keys:  fmt.Sprintf("auth: {tokenFile: %q}", path),
		files: [2]map[string]string{{path: firstSecret}, {path: secondSecret}},
		// There is but one token: the observer tries both.
		observer: []nats.Option{nats.TokenHandler(func() string {
			defer func() { token = map[string]string{firstSecret: secondSecret, secondSecret: firstSecret}[token] }()
			return token
		}), nats.IgnoreAuthErrorAbort()},
		refused: "the server refuses the token in",
	}
}

// newKey is a key pair, its public key and its seed.
func newKey(create func() (nkeys.KeyPair, error)) (pair nkeys.KeyPair, public, seed string) {
	pair = must(create())
	return pair, must(pair.PublicKey()), string(must(pair.Seed()))
}

func nkey(_ *testing.T, dir string) login {
	path := filepath.Join(dir, "seed")
	_, first, firstSeed := newKey(nkeys.CreateUser)
	_, second, secondSeed := newKey(nkeys.CreateUser)
	server := func(public string) string {
		return fmt.Sprintf("authorization {users: [{nkey: %s}, {user: %s, password: %s}]}", public, look, look)
	}
	return login{
		server:   [2]string{server(first), server(second)},
		keys:     fmt.Sprintf("auth: {nkeyFile: %q}", path),
		files:    [2]map[string]string{{path: firstSeed + "\n"}, {path: secondSeed + "\n"}},
		observer: []nats.Option{nats.UserInfo(look, look)},
		refused:  "the server refuses the nkey in",
	}
}

// credentials are JWTs that an account has signed; the first is revoked.
func credentials(t *testing.T, dir string) login {
	path, observer := filepath.Join(dir, "creds"), filepath.Join(dir, "observer.creds")
	operator, operatorPublic, _ := newKey(nkeys.CreateOperator)
	account, accountPublic, _ := newKey(nkeys.CreateAccount)
	_, systemPublic, _ := newKey(nkeys.CreateAccount)
	operatorClaims := jwt.NewOperatorClaims(operatorPublic)
	operatorClaims.SystemAccount = systemPublic
	operatorToken, systemToken := must(operatorClaims.Encode(operator)), must(jwt.NewAccountClaims(systemPublic).Encode(operator))
	user := func() (public, content string) {
		_, public, seed := newKey(nkeys.CreateUser)
		content = string(must(jwt.FormatUserConfig(must(jwt.NewUserClaims(public).Encode(account)), []byte(seed))))
		return public, content
	}
	server := func(revoked ...string) string {
		claims := jwt.NewAccountClaims(accountPublic)
		claims.Limits.JetStreamLimits = jwt.JetStreamLimits{DiskStorage: -1, MemoryStorage: -1, Streams: -1, Consumer: -1}
		for _, public := range revoked {
			claims.RevokeAt(public, time.Now().Add(time.Minute))
		}
		return fmt.Sprintf("operator: %s\nsystem_account: %s\nresolver: MEMORY\nresolver_preload: {%s: %s, %s: %s}",
			operatorToken, systemPublic, accountPublic, must(claims.Encode(operator)), systemPublic, systemToken)
	}
	first, firstContent := user()
	_, secondContent := user()
	_, observerContent := user()
	write(t, map[string]string{observer: observerContent})
	return login{
		server:   [2]string{server(), server(first)},
		keys:     fmt.Sprintf("auth: {credentialsFile: %q}", path),
		files:    [2]map[string]string{{path: firstContent}, {path: secondContent}},
		observer: []nats.Option{nats.UserCredentials(observer)},
		refused:  "the server refuses the credentials in",
	}
}

// mutualTLS is with certificates of an authority that is exchanged for another,
// and a server that is known by another name than its URL has.
func mutualTLS(t *testing.T, dir string) login {
	const name = "nats.internal"
	l := login{refused: "certificate"}
	paths := [3]string{filepath.Join(dir, "ca.crt"), filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")}
	roots := x509.NewCertPool()
	both := ""
	var own [2]controlplane.KeyPair
	for i := range l.server {
		authority := must(controlplane.NewAuthority())
		server, client := must(authority.Server(name, name)), must(authority.Client("bridge"))
		own[i] = must(authority.Client(look))
		roots.AppendCertsFromPEM(authority.Cert)
		both += string(authority.Cert)
		file := func(name string, content []byte) string {
			path := filepath.Join(dir, fmt.Sprintf("%d-%s", i, name))
			write(t, map[string]string{path: string(content)})
			return path
		}
		l.server[i] = fmt.Sprintf("tls {cert_file: %q, key_file: %q, ca_file: %q, verify: true}",
			file("server.crt", server.Cert), file("server.key", server.Key), file("ca.crt", authority.Cert))
		l.files[i] = map[string]string{paths[0]: string(authority.Cert), paths[1]: string(client.Cert), paths[2]: string(client.Key)}
	}
	l.keys = fmt.Sprintf("tls: {caFile: %q, certFile: %q, keyFile: %q, serverName: %s}", paths[0], paths[1], paths[2], name)
	turn := 0
	l.observer = []nats.Option{nats.Secure(&tls.Config{
		MinVersion: tls.VersionTLS12, RootCAs: roots, ServerName: name,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			turn++ // it tries both
			certificate, err := tls.X509KeyPair(own[turn%2].Cert, own[turn%2].Key)
			return &certificate, err
		},
	}), nats.RetryOnFailedConnect(true)}
	return l
}

// must ends the test where there is an error that no server makes.
func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func write(t *testing.T, files map[string]string) {
	t.Helper()
	for path, content := range files {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestLogin shows, for each way to log in, that a bridge gets in by it and by
// nothing else, that what is refused is told in words, and that a rotation
// while objects change needs no restart, loses no event and sends none twice.
func TestLogin(t *testing.T) {
	t.Parallel() // it waits, most of the time
	for _, row := range []struct {
		name string
		make func(t *testing.T, dir string) login
	}{
		{"user and password", passwords},
		{"token", tokens},
		{"nkey", nkey},
		{"credentials", credentials},
		{"mutual TLS, an authority of its own, another server name", mutualTLS},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			l := row.make(t, t.TempDir())
			server := controlplane.NATSForTest(t, controlplane.NATSOptions{Config: l.server[1]})
			cp := shared.Get(t)
			w := &world{cp: cp, kind: newKind(t, cp.Admin()), nats: server}
			k := w.kind
			k.create(t)
			const objects = 50
			k.fill(t, objects)
			write(t, l.files[0])
			b := startBridge(t, config{kubeconfig: w.cp.AdminKubeconfig(), body: "routes:\n" + k.route("test") +
				fmt.Sprintf("sinks: {main: {nats: {url: %q, jetstream: {stream: K8S}, %s}}}\n", server.URL(), l.keys)})
			if f := b.waitState(t, k.name, "test", "blocked"); !strings.Contains(f.Reason, l.refused) {
				t.Errorf("refused, it says %q", f.Reason)
			}
			if err := server.Reload(t.Context(), l.server[0]); err != nil {
				t.Fatal(err)
			}
			b.waitState(t, k.name, "test", "running")
			w.stream = subscribeTo(t, server.URL(), l.observer...)

			changes, stop := k.shake(t, objects)
			more := func() {
				t.Helper()
				before := changes.Load()
				eventually(t, func() error {
					if n := changes.Load() - before; n < 100 {
						return fmt.Errorf("%d changes", n)
					}
					return nil
				})
			}
			more()
			if err := server.Reload(t.Context(), l.server[1]); err != nil {
				t.Fatal(err)
			}
			more()
			write(t, l.files[1])
			b.logs(t, "files of a sink have changed")
			more()
			stop()
			b.waitState(t, k.name, "test", "running")
			w.stream.wait(t, k.name, objects+int(changes.Load()))
			w.orderly(t)
			if n := b.starts(t, k.name, "test"); n != 1 {
				t.Errorf("the flow was started %d times", n)
			}
			_, page, err := get(t.Context(), b.server+"/api/status")
			if err != nil {
				t.Fatal(err)
			}
			for _, files := range l.files {
				for path, content := range files {
					if secret := strings.TrimSpace(content); len(secret) > 10 && strings.Contains(b.log(t)+page, secret) {
						t.Errorf("what %s had is in the log or the status", path)
					}
				}
			}
		})
	}
}
