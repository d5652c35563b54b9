package main

import (
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

// secureServer is an HTTPS server that speaks HTTP/2, and a file with its CA.
func secureServer(t *testing.T, handler http.HandlerFunc, connState func(net.Conn, http.ConnState)) (s *httptest.Server, ca string) {
	t.Helper()
	s = httptest.NewUnstartedServer(handler)
	s.Config.ConnState = connState
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	ca = filepath.Join(t.TempDir(), "ca.crt")
	content := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	if err := os.WriteFile(ca, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return s, ca
}

// kubeconfigFor writes one for the cluster and the user.
func kubeconfigFor(t *testing.T, cluster api.Cluster, user api.AuthInfo) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	err := clientcmd.WriteToFile(api.Config{
		CurrentContext: "c",
		Contexts:       map[string]*api.Context{"c": {Cluster: "c", AuthInfo: "u"}},
		Clusters:       map[string]*api.Cluster{"c": &cluster},
		AuthInfos:      map[string]*api.AuthInfo{"u": &user},
	}, path)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// TestWatchesAreBounded shows that the client for the API server holds less of
// a watch that nobody reads than Go's HTTP/2 client would, which is 4 MiB: the
// server can send no more.
func TestWatchesAreBounded(t *testing.T) {
	var sent atomic.Int64
	s, ca := secureServer(t, func(w http.ResponseWriter, _ *http.Request) {
		part := make([]byte, 8<<10)
		for {
			if _, err := w.Write(part); err != nil {
				return
			}
			sent.Add(int64(len(part)))
		}
	}, nil)
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(ca)
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		why     string
		cluster api.Cluster
		user    api.AuthInfo
	}{
		{"a CA in a file, which client-go reads again, as for a pod", api.Cluster{CertificateAuthority: ca}, api.AuthInfo{TokenFile: token}},
		{"a CA in the kubeconfig", api.Cluster{CertificateAuthorityData: content}, api.AuthInfo{Token: "secret"}},
		{"nothing is verified", api.Cluster{InsecureSkipTLSVerify: true}, api.AuthInfo{Username: "u", Password: "p"}},
	} {
		t.Run(row.why, func(t *testing.T) {
			row.cluster.Server = s.URL
			c, err := connect(kubeconfigFor(t, row.cluster, row.user))
			if err != nil {
				t.Fatal(err)
			}
			defer c.HTTP.CloseIdleConnections()
			sent.Store(0)
			request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL, nil)
			if err != nil {
				t.Fatal(err)
			}
			response, err := c.HTTP.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			if response.ProtoMajor != 2 {
				t.Errorf("it speaks %s", response.Proto)
			}
			// Where it can go on it sends a hundred times as much meanwhile. Of what it
			// has sent a few parts are still with it.
			<-time.After(300 * time.Millisecond)
			if n := sent.Load(); n < watchBuffer-(64<<10) || n > watchBuffer+(64<<10) {
				t.Errorf("the server sent %d bytes, want about %d", n, watchBuffer)
			}
		})
	}
}

// TestDedicatedConnections shows that each request of the client for busy watches
// has a connection, over HTTP/1.1, that ends with it, and the credentials of all
// others.
func TestDedicatedConnections(t *testing.T) {
	var mu sync.Mutex
	made, closed := map[net.Conn]bool{}, map[net.Conn]bool{}
	s, ca := secureServer(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Header.Get("Authorization"))
	}, func(c net.Conn, state http.ConnState) {
		mu.Lock()
		defer mu.Unlock()
		made[c] = true
		if state == http.StateClosed {
			closed[c] = true
		}
	})
	c, err := connect(kubeconfigFor(t, api.Cluster{Server: s.URL, CertificateAuthority: ca}, api.AuthInfo{Token: "secret"}))
	if err != nil {
		t.Fatal(err)
	}
	const requests = 3
	for range requests {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := c.Dedicated.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(response.Body)
		if err := errors.Join(err, response.Body.Close()); err != nil {
			t.Fatal(err)
		}
		if response.Proto != "HTTP/1.1" || string(content) != "Bearer secret" {
			t.Errorf("it speaks %s, and sends %q", response.Proto, content)
		}
	}
	for deadline := time.Now().Add(10 * time.Second); ; {
		mu.Lock()
		if len(made) == requests && len(closed) == requests {
			mu.Unlock()
			return
		}
		got := fmt.Sprintf("%d connections were made, and %d closed, want %d", len(made), len(closed), requests)
		mu.Unlock()
		if time.Now().After(deadline) {
			t.Fatal(got)
		}
		<-time.After(time.Millisecond)
	}
}
