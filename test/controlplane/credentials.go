//go:build unix

package controlplane

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// The files that the API server reads its credentials from.
const (
	authorityFile            = "ca.crt"
	serverCertFile           = "apiserver.crt"
	serverKeyFile            = "apiserver.key"
	kubeletClientCertFile    = "kubelet-client.crt"
	kubeletClientKeyFile     = "kubelet-client.key"
	serviceAccountKeyFile    = "service-account.key"
	serviceAccountPublicFile = "service-account.pub"
)

// credentials are a control plane's own, made at its start.
type credentials struct {
	authority *Authority
	admin     KeyPair
}

// newCredentials makes the credentials and writes those of an API server at host
// into dir.
func newCredentials(dir, host string) (*credentials, error) {
	ca, err := NewAuthority()
	if err != nil {
		return nil, err
	}
	server, err := ca.Server("kube-apiserver", "localhost", "127.0.0.1", host, "kubernetes.default.svc")
	if err != nil {
		return nil, err
	}
	admin, err := ca.Client("admin", "system:masters")
	if err != nil {
		return nil, err
	}
	kubeletClient, err := ca.Client("kube-apiserver-kubelet-client", "system:masters")
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
		kubeletClientCertFile:    kubeletClient.Cert,
		kubeletClientKeyFile:     kubeletClient.Key,
		serviceAccountKeyFile:    signingKey,
		serviceAccountPublicFile: pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return nil, err
		}
	}
	return &credentials{authority: ca, admin: admin}, nil
}

// config returns a configuration for a client of the API server at that address
// that is not throttled.
func (c *credentials) config(address string, who KeyPair) *rest.Config {
	return &rest.Config{
		Host: "https://" + address,
		TLSClientConfig: rest.TLSClientConfig{
			CAData:   c.authority.Cert,
			CertData: who.Cert,
			KeyData:  who.Key,
		},
		QPS: -1,
	}
}

// Authority is who issued the API server's certificate, and issues those of
// clients that it knows.
func (cp *ControlPlane) Authority() *Authority { return cp.creds.authority }

// AuthorityFile returns the path of the authority's certificate.
func (cp *ControlPlane) AuthorityFile() string { return filepath.Join(cp.dir, authorityFile) }

// ServiceAccountKeyFile returns the path of the key that the tokens of service
// accounts are signed with.
func (cp *ControlPlane) ServiceAccountKeyFile() string {
	return filepath.Join(cp.dir, serviceAccountKeyFile)
}

// Kubeconfig writes a kubeconfig for that user in those groups, such as a part
// of Kubernetes, and returns its path.
func (cp *ControlPlane) Kubeconfig(user string, groups ...string) (path string, err error) {
	who, err := cp.creds.authority.Client(user, groups...)
	if err != nil {
		return "", err
	}
	path = filepath.Join(cp.dir, strings.ReplaceAll(user, ":", ".")+".user.kubeconfig")
	return path, writeKubeconfig(path, cp.creds.config(cp.Address(), who))
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
