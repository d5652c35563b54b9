package settings

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// TLS says how server and bridge recognise each other. It names PEM files,
// which are read for each connection and may be there later than the
// configuration. The zero value leaves it to the server and to the URL's scheme
// whether there is TLS, and trusts the system's authorities.
type TLS struct {
	// Holds the authorities that the server's certificate has to be from.
	// Default: the system's.
	CAFile string `koanf:"caFile" rule:"file"`
	// Holds the bridge's certificate; goes with `keyFile`.
	CertFile string `koanf:"certFile" rule:"file"`
	// Holds the key of the bridge's certificate; goes with `certFile`.
	KeyFile string `koanf:"keyFile" rule:"file"`
	// What the server's certificate has to be for. Default: the host of the
	// URL.
	ServerName string `koanf:"serverName" rule:"host,empty"`
}

// Validate reports values that cannot be meant.
func (t *TLS) Validate(at Path, r Report) {
	Files(r, at, File{"caFile", t.CAFile})
	Files(r, at, File{"certFile", t.CertFile}, File{"keyFile", t.KeyFile})
	if name := t.ServerName; name != "" && !IsHost(name) {
		r.Value(at.Key("serverName"), "%s: not a host name or an IP address", Quote(name))
	}
}

// Check is Validate for values that no file has.
func (t *TLS) Check() error {
	if (t.CertFile == "") != (t.KeyFile == "") {
		return errors.New("tls: certFile and keyFile go together")
	}
	return nil
}

// Files are the files that are named.
func (t *TLS) Files() []string { return []string{t.CAFile, t.CertFile, t.KeyFile} }

// Config reads the files. It is nil where there is nothing to say of TLS.
func (t *TLS) Config() (*tls.Config, error) {
	if *t == (TLS{}) {
		return nil, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	if t.CAFile != "" {
		pem, err := ReadFile("tls: caFile", t.CAFile)
		if err != nil {
			return nil, err
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("tls: caFile %s holds no certificate", t.CAFile)
		}
	}
	if t.CertFile != "" {
		cert, err := ReadFile("tls: certFile", t.CertFile)
		if err != nil {
			return nil, err
		}
		key, err := ReadFile("tls: keyFile", t.KeyFile)
		if err != nil {
			return nil, err
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("tls: certFile %s and keyFile %s: %w", t.CertFile, t.KeyFile, err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// ReadSecret reads the file that the key names, without the line break that
// editors leave at its end. The error does not repeat the content.
func ReadSecret(key, file string) ([]byte, error) {
	content, err := ReadFile("auth: "+key, file)
	if err != nil {
		return nil, err
	}
	secret := strings.TrimRight(string(content), "\r\n")
	if secret == "" {
		return nil, fmt.Errorf("auth: %s %s is empty", key, file)
	}
	return []byte(secret), nil
}

// ReadFile reads the file that the key names.
func ReadFile(key, file string) ([]byte, error) {
	content, err := os.ReadFile(file)
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		err = path.Err
	}
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", key, file, err)
	}
	return content, nil
}
