package nats

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
)

func (a Auth) check() error {
	kinds := 0
	for _, file := range []string{a.CredentialsFile, a.NKeyFile, a.UserFile + a.PasswordFile, a.TokenFile} {
		if file != "" {
			kinds++
		}
	}
	if kinds > 1 {
		return errors.New("auth: one of credentialsFile, nkeyFile, userFile with passwordFile, tokenFile, not several")
	}
	if (a.UserFile == "") != (a.PasswordFile == "") {
		return errors.New("auth: userFile and passwordFile go together")
	}
	return nil
}

// String names the credentials by their files, for people.
func (a Auth) String() string {
	switch {
	case a.CredentialsFile != "":
		return "the credentials in " + a.CredentialsFile
	case a.NKeyFile != "":
		return "the nkey in " + a.NKeyFile
	case a.UserFile != "":
		return "the user and password in " + a.UserFile + " and " + a.PasswordFile
	case a.TokenFile != "":
		return "the token in " + a.TokenFile
	}
	return "a connection without credentials"
}

// apply reads the files into the options of one connection. wipe forgets the
// private key and has to be called when the connection stands.
func (a Auth) apply(o *natsgo.Options) (wipe func(), err error) {
	wipe = func() {}
	switch {
	case a.CredentialsFile != "":
		content, err := readSecret("credentialsFile", a.CredentialsFile)
		if err != nil {
			return nil, err
		}
		jwt, err := nkeys.ParseDecoratedJWT(content)
		if err != nil || strings.Count(jwt, ".") != 2 {
			return nil, fmt.Errorf("auth: credentialsFile %s holds no user JWT", a.CredentialsFile)
		}
		key, err := nkeys.ParseDecoratedUserNKey(content)
		if err != nil {
			return nil, fmt.Errorf("auth: credentialsFile %s holds no seed of a user", a.CredentialsFile)
		}
		o.UserJWT = func() (string, error) { return jwt, nil }
		o.SignatureCB = key.Sign
		wipe = key.Wipe
	case a.NKeyFile != "":
		content, err := readSecret("nkeyFile", a.NKeyFile)
		if err != nil {
			return nil, err
		}
		key, err := nkeys.ParseDecoratedUserNKey(content)
		if err != nil {
			return nil, fmt.Errorf("auth: nkeyFile %s holds no seed of a user", a.NKeyFile)
		}
		if o.Nkey, err = key.PublicKey(); err != nil {
			return nil, fmt.Errorf("auth: nkeyFile %s: %w", a.NKeyFile, err)
		}
		o.SignatureCB = key.Sign
		wipe = key.Wipe
	case a.UserFile != "":
		user, err := readSecret("userFile", a.UserFile)
		if err != nil {
			return nil, err
		}
		password, err := readSecret("passwordFile", a.PasswordFile)
		if err != nil {
			return nil, err
		}
		o.User, o.Password = string(user), string(password)
	case a.TokenFile != "":
		token, err := readSecret("tokenFile", a.TokenFile)
		if err != nil {
			return nil, err
		}
		o.Token = string(token)
	}
	return wipe, nil
}

func (t TLS) check() error {
	if (t.CertFile == "") != (t.KeyFile == "") {
		return errors.New("tls: certFile and keyFile go together")
	}
	return nil
}

// apply reads the files into the options of one connection. Any setting of
// TLS means that there has to be TLS.
func (t TLS) apply(o *natsgo.Options) error {
	if t == (TLS{}) {
		return nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	if t.CAFile != "" {
		pem, err := readFile("tls: caFile", t.CAFile)
		if err != nil {
			return err
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return fmt.Errorf("tls: caFile %s holds no certificate", t.CAFile)
		}
	}
	if t.CertFile != "" {
		cert, err := readFile("tls: certFile", t.CertFile)
		if err != nil {
			return err
		}
		key, err := readFile("tls: keyFile", t.KeyFile)
		if err != nil {
			return err
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return fmt.Errorf("tls: certFile %s and keyFile %s: %w", t.CertFile, t.KeyFile, err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	o.Secure, o.TLSConfig = true, config
	return nil
}

// readSecret reads a secret without the line break that editors leave at its
// end.
func readSecret(key, file string) ([]byte, error) {
	content, err := readFile("auth: "+key, file)
	if err != nil {
		return nil, err
	}
	secret := strings.TrimRight(string(content), "\r\n")
	if secret == "" {
		return nil, fmt.Errorf("auth: %s %s is empty", key, file)
	}
	return []byte(secret), nil
}

func readFile(key, file string) ([]byte, error) {
	content, err := os.ReadFile(file)
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		err = path.Err
	}
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", key, file, err)
	}
	return content, nil
}
