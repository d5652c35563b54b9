package nats

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"github.com/crbridge/crbridge/pkg/settings"
	"github.com/crbridge/crbridge/pkg/settings/settingstest"
	"github.com/crbridge/crbridge/pkg/sinks/natstest"
)

// file is a file with the content.
func file(t testing.TB, content string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	write(t, name, content)
	return name
}

func write(t testing.TB, name, content string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// login is one way to log in, with a server that lets nobody else in.
type login struct {
	server  string // configuration
	auth    Auth
	tls     settings.TLS
	secret  string // the file that is wrong at first
	right   string // its right content
	wrong   string // a content that the server refuses, or that is none
	refusal string // what is said then
	hidden  []string
}

func userAndPassword(t *testing.T) login {
	l := login{
		server: `authorization {user: bridge, password: "pass-right"}`,
		right:  "pass-right\n", wrong: "pass-wrong\n",
		hidden: []string{"pass-right", "pass-wrong"},
	}
	l.auth = Auth{UserFile: file(t, "bridge\n"), PasswordFile: file(t, "")}
	l.secret = l.auth.PasswordFile
	l.refusal = fmt.Sprintf("sink main: the server refuses the user and password in %s and %s: Authorization Violation",
		l.auth.UserFile, l.auth.PasswordFile)
	return l
}

func token(t *testing.T) login {
	l := login{
		server: `authorization {token: "token-right"}`, right: "token-right", wrong: "token-wrong",
		hidden: []string{"token-right", "token-wrong"},
	}
	l.secret = file(t, "")
	l.auth.TokenFile = l.secret
	l.refusal = fmt.Sprintf("sink main: the server refuses the token in %s: Authorization Violation", l.secret)
	return l
}

// key is a new key pair: its public key and its seed.
func key(t *testing.T, create func() (nkeys.KeyPair, error)) (pair nkeys.KeyPair, public, seed string) {
	t.Helper()
	pair, err := create()
	if err != nil {
		t.Fatal(err)
	}
	public, err = pair.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	s, err := pair.Seed()
	if err != nil {
		t.Fatal(err)
	}
	return pair, public, string(s)
}

func nkey(t *testing.T) login {
	_, public, seed := key(t, nkeys.CreateUser)
	_, _, other := key(t, nkeys.CreateUser)
	l := login{
		server: fmt.Sprintf(`authorization {users: [{nkey: %s}]}`, public), right: seed + "\n", wrong: other + "\n",
		hidden: []string{seed, other},
	}
	l.secret = file(t, "")
	l.auth.NKeyFile = l.secret
	l.refusal = fmt.Sprintf("sink main: the server refuses the nkey in %s: Authorization Violation", l.secret)
	return l
}

// credentials are in operator mode, with a resolver in memory.
func credentials(t *testing.T) login {
	encode := func(token string, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	operator, operatorPublic, _ := key(t, nkeys.CreateOperator)
	account, accountPublic, _ := key(t, nkeys.CreateAccount)
	_, systemPublic, _ := key(t, nkeys.CreateAccount)
	operatorClaims := jwt.NewOperatorClaims(operatorPublic)
	operatorClaims.SystemAccount = systemPublic
	accountClaims := jwt.NewAccountClaims(accountPublic)
	accountClaims.Limits.JetStreamLimits = jwt.JetStreamLimits{DiskStorage: -1, MemoryStorage: -1, Streams: -1, Consumer: -1}
	server := fmt.Sprintf("operator: %s\nsystem_account: %s\nresolver: MEMORY\nresolver_preload: {%s: %s, %s: %s}",
		encode(operatorClaims.Encode(operator)), systemPublic,
		accountPublic, encode(accountClaims.Encode(operator)),
		systemPublic, encode(jwt.NewAccountClaims(systemPublic).Encode(operator)))

	user := func(expires time.Time) (creds, seed string) {
		_, public, seed := key(t, nkeys.CreateUser)
		claims := jwt.NewUserClaims(public)
		claims.Expires = expires.Unix()
		decorated, err := jwt.FormatUserConfig(encode(claims.Encode(account)), []byte(seed))
		if err != nil {
			t.Fatal(err)
		}
		return string(decorated), seed
	}
	right, seed := user(time.Now().Add(time.Hour))
	expired, other := user(time.Now().Add(-time.Hour))
	l := login{server: server, right: right, wrong: expired, hidden: []string{seed, other}, secret: file(t, "")}
	l.auth.CredentialsFile = l.secret
	l.refusal = fmt.Sprintf("sink main: the server refuses the credentials in %s: ", l.secret)
	return l
}

// serverTLS is a server with a certificate for nats.internal, which is not
// what the URL says, that wants certificates of its clients.
func serverTLS(t *testing.T, a *settingstest.Authority) string {
	cert, key := a.Issue(t, "nats.internal")
	return fmt.Sprintf("tls {cert_file: %q, key_file: %q, ca_file: %q, verify: true}", file(t, cert), file(t, key), file(t, a.PEM))
}

func mutualTLS(t *testing.T) login {
	a, stranger := settingstest.NewAuthority(t, "ours"), settingstest.NewAuthority(t, "a stranger")
	cert, key := a.Issue(t, "bridge")
	l := login{server: serverTLS(t, a), right: a.PEM, wrong: stranger.PEM, hidden: []string{key}, secret: file(t, "")}
	l.tls = settings.TLS{CAFile: l.secret, CertFile: file(t, cert), KeyFile: file(t, key), ServerName: "nats.internal"}
	l.refusal = "sink main: connecting: tls error: tls: failed to verify certificate: x509: certificate signed by unknown authority"
	return l
}

// Every kind of login is first missing, then wrong, then right, as when
// somebody mends a Secret; then wrong again, which only the next connection
// sees.
func TestLogin(t *testing.T) {
	for _, test := range []struct {
		name string
		make func(*testing.T) login
	}{
		{"user and password", userAndPassword},
		{"token", token},
		{"nkey", nkey},
		{"credentials", credentials},
		{"mutual TLS with an authority of its own and another server name", mutualTLS},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := test.make(t)
			server := natstest.Start(t, l.server)
			var log settingstest.LogBook
			o := options(t, server)
			o.Auth, o.TLS, o.Logger = l.auth, l.tls, log.Logger(slog.LevelInfo)
			if err := os.Remove(l.secret); err != nil {
				t.Fatal(err)
			}
			s := open(t, o)
			untilStatus(t, s, l.secret+": no such file or directory")
			write(t, l.secret, l.wrong)
			untilStatus(t, s, l.refusal)
			write(t, l.secret, l.right)
			publish(t, s, change(t, "one", 1))
			if status := s.Status(); !status.Connected || status.LastError != "" {
				t.Errorf("the secret is right, and the status is %+v", status)
			}
			write(t, l.secret, l.wrong)
			publish(t, s, change(t, "one", 2))
			server.Kill(t)
			server.Start(t)
			untilStatus(t, s, l.refusal)
			write(t, l.secret, l.right)
			publish(t, s, change(t, "one", 3))
			for _, secret := range l.hidden {
				if strings.Contains(log.String(), strings.TrimSpace(secret)) {
					t.Errorf("the log holds a secret:\n%s", log.String())
				}
			}
			if n := strings.Count(log.String(), "\n"); n > 12 {
				t.Errorf("%d lines are logged for seven changes of state:\n%s", n, log.String())
			}
		})
	}
}

func TestTLSIsToldInWords(t *testing.T) {
	a, stranger := settingstest.NewAuthority(t, "ours"), settingstest.NewAuthority(t, "a stranger")
	server := natstest.Start(t, serverTLS(t, a))
	plain := natstest.Start(t, "")
	cert, key := a.Issue(t, "bridge")
	otherCert, otherKey := stranger.Issue(t, "bridge")
	right := settings.TLS{CAFile: file(t, a.PEM), CertFile: file(t, cert), KeyFile: file(t, key), ServerName: "nats.internal"}
	for _, test := range []struct {
		why    string
		server *natstest.Server
		change func(*settings.TLS)
		want   string // what a server says after the handshake may get lost: there it is a word of the hint too
	}{
		{"another server", server, func(c *settings.TLS) { c.ServerName = "other" }, "certificate is valid for nats.internal, not other"},
		{"no certificate, and the server wants one", server, func(c *settings.TLS) { c.CertFile, c.KeyFile = "", "" }, "certificate"},
		{"a certificate of a stranger", server, func(c *settings.TLS) { c.CertFile, c.KeyFile = file(t, otherCert), file(t, otherKey) }, "certificate"},
		{"no certificate in the file", server, func(c *settings.TLS) { c.CAFile = file(t, "x") }, "holds no certificate"},
		{"a key of another certificate", server, func(c *settings.TLS) { c.KeyFile = file(t, otherKey) }, "private key does not match public key"},
		{"a server without TLS", plain, func(*settings.TLS) {}, "secure connection not available"},
	} {
		t.Run(test.why, func(t *testing.T) {
			o := options(t, test.server)
			o.TLS = right
			test.change(&o.TLS)
			s := open(t, o)
			untilStatus(t, s, test.want)
		})
	}
}
