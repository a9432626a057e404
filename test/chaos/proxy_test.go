//go:build chaos

package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
)

// proxy stands between a hub and its Consul server, and can make the way bad.
type proxy struct {
	*toxiproxy.Proxy
}

// newProxy listens at an address of the test process and hands on to another.
func newProxy(t *testing.T, name, listen, upstream string) *proxy {
	t.Helper()
	zerolog.SetGlobalLevel(zerolog.Disabled) // it has loggers that no option reaches
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	p := toxiproxy.NewProxy(server, name, listen, upstream)
	if err := p.Start(); err != nil {
		t.Fatalf("proxy %s: %v", name, err)
	}
	t.Cleanup(p.Stop)
	return &proxy{p}
}

// toxic is one way to make a connection bad, as toxiproxy names it.
type toxic struct {
	Name       string         `json:"name"`
	Type       string         `json:"type"`
	Stream     string         `json:"stream"`
	Attributes map[string]int `json:"attributes"`
}

func (x toxic) String() string { return fmt.Sprintf("%s %s %v", x.Stream, x.Type, x.Attributes) }

// poison adds a toxic to what goes through the proxy from now on.
func (p *proxy) poison(x toxic) error {
	data, err := json.Marshal(x)
	if err != nil {
		return err
	}
	_, err = p.Toxics.AddToxicJson(bytes.NewReader(data))
	return err
}

// cure takes a toxic away again.
func (p *proxy) cure(ctx context.Context, name string) error { return p.Toxics.RemoveToxic(ctx, name) }
