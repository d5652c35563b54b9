//go:build unix

package controlplane

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// The files that the API server reads its credentials from.
const (
	authorityFile            = "ca.crt"
	serverCertFile           = "apiserver.crt"
	serverKeyFile            = "apiserver.Key"
	serviceAccountKeyFile    = "service-account.key"
	serviceAccountPublicFile = "service-account.pub"
)

// credentials are a control plane's own, made at its start.
type credentials struct {
	authority []byte // certificate, PEM
	admin     KeyPair
}

// newCredentials makes the credentials and writes the API server's into dir.
func newCredentials(dir string) (*credentials, error) {
	ca, err := NewAuthority()
	if err != nil {
		return nil, err
	}
	server, err := ca.Server("kube-apiserver")
	if err != nil {
		return nil, err
	}
	admin, err := ca.Client("admin", "system:masters")
	if err != nil {
		return nil, err
	}
	signer, signingKey, err := newKey()
	if err != nil {
		return nil, err
	}
	public, err := x509.MarshalPKIXPublicKey(signer.Public())
	if err != nil {
		return nil, err
	}
	for name, content := range map[string][]byte{
		authorityFile:            ca.Cert,
		serverCertFile:           server.Cert,
		serverKeyFile:            server.Key,
		serviceAccountKeyFile:    signingKey,
		serviceAccountPublicFile: pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return nil, err
		}
	}
	return &credentials{authority: ca.Cert, admin: admin}, nil
}

// adminConfig returns a configuration for a client that may do everything and
// is not throttled.
func (c *credentials) adminConfig(port int) *rest.Config {
	return &rest.Config{
		Host: "https://" + loopback(port),
		TLSClientConfig: rest.TLSClientConfig{
			CAData:   c.authority,
			CertData: c.admin.Cert,
			KeyData:  c.admin.Key,
		},
		QPS: -1,
	}
}

// writeKubeconfig writes what config says to a file that every Kubernetes
// client reads. The file needs no others.
func writeKubeconfig(path string, config *rest.Config) error {
	const name = "crbridge"
	return clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters: map[string]*clientcmdapi.Cluster{name: {
			Server:                   config.Host,
			CertificateAuthorityData: config.CAData,
		}},
		AuthInfos: map[string]*clientcmdapi.AuthInfo{name: {
			ClientCertificateData: config.CertData,
			ClientKeyData:         config.KeyData,
			Token:                 config.BearerToken,
		}},
		Contexts:       map[string]*clientcmdapi.Context{name: {Cluster: name, AuthInfo: name}},
		CurrentContext: name,
	}, path)
}
