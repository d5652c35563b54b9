package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestEndIsNotHeldUp shows that a bridge ends for an error though the API server
// does not answer.
func TestEndIsNotHeldUp(t *testing.T) {
	silent, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	content := fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"c","contexts":[{"name":"c","context":{"cluster":"c"}}],"clusters":[{"name":"c","cluster":{"server":"https://%s"}}]}`, silent.Addr())
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	// The handshake alone would be waited for ten seconds.
	begin := time.Now()
	tellEnd(t.Context(), path, []string{"POD_NAME=bridge", "POD_NAMESPACE=default"}, errors.New("why"))
	if took := time.Since(begin); took < lastWords || took > lastWords+5*time.Second {
		t.Errorf("it took %v, not %v", took, lastWords)
	}
}

// TestEventOfALongName shows that an Event is one that the API server takes,
// however long the name of the pod and the text are.
func TestEventOfALongName(t *testing.T) {
	pod := strings.Repeat("p", 253)
	r := &recorder{pod: ownPod([]string{"POD_NAME=" + pod, "POD_NAMESPACE=default"})}
	e := r.event("Warning", "Reason", "Action", nil, strings.Repeat("ü", 1000))
	if e.Regarding.Name != pod || len(e.Name) > 253 || len(e.ReportingInstance) > 128 || len(e.Note) > 1024 || !strings.HasSuffix(e.Note, "ü...") {
		t.Errorf("%d bytes of reportingInstance, %d of note, named %s: %s", len(e.ReportingInstance), len(e.Note), e.Name, e.Note)
	}
}
