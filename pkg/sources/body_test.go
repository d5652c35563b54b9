package sources

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
)

// TestBodies shows which answers are kept from client-go: those that were asked
// for, and that a scanner can read.
func TestBodies(t *testing.T) {
	const text = `{"kind":"OrderList"}`
	for _, row := range []struct {
		why         string
		asks        *wanted
		status      int
		contentType string
		taken       bool
	}{
		{"asked for", &objectsWanted, http.StatusOK, "application/json", true},
		{"with a character set", &objectsWanted, http.StatusOK, "application/json; charset=utf-8", true},
		{"not asked for", nil, http.StatusOK, "application/json", false},
		{"a refusal is client-go's to read", &objectsWanted, http.StatusGone, "application/json", false},
		{"no JSON", &objectsWanted, http.StatusOK, "application/cbor", false},
		{"nobody knows what", &objectsWanted, http.StatusOK, "", false},
		{"metadata", &metadataWanted, http.StatusOK, "application/vnd.kubernetes.protobuf", true},
		{"whole objects where metadata was asked for", &metadataWanted, http.StatusOK, "application/json", false},
	} {
		accept, is := "of the request", ""
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			is = r.Header.Get("Accept")
			w.Header()["Content-Type"] = []string{row.contentType}
			w.WriteHeader(row.status)
			_, _ = io.WriteString(w, text)
		}))
		client := Cluster{HTTP: server.Client()}.bodies()
		ctx, a := t.Context(), (*answer)(nil)
		if row.asks != nil {
			ctx, a = asking(ctx, *row.asks)
			if row.asks.accept != "" {
				accept = row.asks.accept
			}
		}
		left := get(ctx, t, client, server.URL)
		if is != accept {
			t.Errorf("%s: the API server is asked for %s, want %s", row.why, is, accept)
		}
		want := text
		if row.taken {
			want = emptyList
		}
		if left != want {
			t.Errorf("%s: client-go reads %s, want %s", row.why, left, want)
		}
		if a != nil {
			switch body := a.take(); {
			case (body != nil) != row.taken:
				t.Errorf("%s: taken: %t", row.why, body != nil)
			case body != nil:
				if got, err := io.ReadAll(body); err != nil || string(got) != text {
					t.Errorf("%s: %s, %v", row.why, got, err)
				}
			}
			a.close()
		}
		server.Close()
	}
}

// An answer that comes when nobody wants it any more is closed, so that its
// connection can be used again; and client-go has nothing to wait for.
func TestNobodyWantsTheBody(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done() // a watch that tells nothing
	}))
	defer server.Close()
	ctx, a := asking(t.Context(), eventsWanted)
	a.close()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	response, err := Cluster{HTTP: server.Client()}.bodies().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.take().Read(make([]byte, 1)); err == nil {
		t.Error("the body can be read")
	}
	if text, err := io.ReadAll(response.Body); err != nil || len(text) > 0 {
		t.Errorf("client-go reads %q, %v", text, err)
	}
	_ = response.Body.Close()
}

func get(ctx context.Context, t *testing.T, client *http.Client, url string) string {
	t.Helper()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Accept", "of the request")
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
