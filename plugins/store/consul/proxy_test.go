package consul

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/meshkit/meshkit/plugins/store/consul/consultest"
)

// via is a proxy before a Consul agent that a test makes slow or wrong. hook answers
// a request itself (true), or lets it pass; it may block.
func via(t *testing.T, s *consultest.Server, hook func(w http.ResponseWriter, r *http.Request, body string) bool) string {
	t.Helper()
	forward := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: s.HTTP})
	transport := &http.Transport{}
	forward.Transport = transport
	forward.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		if !hook(w, r, string(body)) {
			forward.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
		transport.CloseIdleConnections()
	})
	return strings.TrimPrefix(srv.URL, "http://")
}

// gate holds requests back until it is opened.
type gate struct {
	once sync.Once
	met  chan struct{} // has something when a request has come to it
	open chan struct{}
}

func newGate(t *testing.T) *gate {
	g := &gate{met: make(chan struct{}, 1), open: make(chan struct{})}
	t.Cleanup(g.release)
	return g
}

func (g *gate) release() { g.once.Do(func() { close(g.open) }) }

// pass blocks until the gate is open or the caller is gone.
func (g *gate) pass(ctx context.Context) {
	select {
	case g.met <- struct{}{}:
	default:
	}
	select {
	case <-g.open:
	case <-ctx.Done():
	}
}

// meets waits for a request to come to the gate.
func (g *gate) meets(t *testing.T, what string) {
	t.Helper()
	select {
	case <-g.met:
	case <-bounded(t).Done():
		t.Fatalf("%s did not happen", what)
	}
}
