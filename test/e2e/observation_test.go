package e2e

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/mtls"
)

// fetch gets a path of a program's observation port, with credentials or without.
func fetch(t *testing.T, s *site, addr, path string, f *mtls.Files) (int, string) {
	t.Helper()
	config := mtls.ClientConfig(load(t, adminFiles(s.hub)), anyone)
	if f != nil {
		config = mtls.ClientConfig(load(t, *f), anyone)
	} else {
		config.GetClientCertificate = nil
	}
	tr := &http.Transport{TLSClientConfig: config}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(limited(t), http.MethodGet, "https://"+addr+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatalf("%s%s: %v", addr, path, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// readyz is what the hub says of its own readiness.
func (s *site) readyz(t *testing.T) (int, string) {
	t.Helper()
	return fetch(t, s, s.hub.Metrics, "/readyz", nil)
}

// TestMetricsNeedACertificateAndHealthDoesNot holds for hub and agent.
func TestMetricsNeedACertificateAndHealthDoesNot(t *testing.T) {
	s := sharedSite(t)
	admin, node := adminFiles(s.hub), nodeFiles(s.agent)
	for name, port := range map[string]struct{ addr, series string }{
		"hub": {s.hub.Metrics, "meshkit_config_seq"}, "agent": {s.agent.Ready["metrics"], "meshkit_agent_"},
	} {
		for _, path := range []string{"/healthz", "/readyz"} {
			if code, body := fetch(t, s, port.addr, path, nil); code != http.StatusOK {
				t.Errorf("%s%s without a certificate: %d %s", name, path, code, body)
			}
		}
		if code, body := fetch(t, s, port.addr, "/metrics", nil); code != http.StatusForbidden && code != http.StatusUnauthorized || !codePattern.MatchString(body) {
			t.Errorf("%s's metrics without a certificate: %d %s", name, code, body)
		}
		if code, body := fetch(t, s, port.addr, "/metrics", &admin); code != http.StatusOK || !strings.Contains(body, port.series) || !strings.Contains(body, "go_goroutines") {
			t.Errorf("%s's metrics with a certificate: %d, no %s in\n%.2000s", name, code, port.series, body)
		}
		if code, _ := fetch(t, s, port.addr, "/no/such/page", &admin); code != http.StatusNotFound {
			t.Errorf("%s: a page that is none: %d", name, code)
		}
	}
	if code, body := fetch(t, s, s.hub.Metrics, "/metrics", &node); code != http.StatusForbidden || !strings.Contains(body, string(fault.CodeNotPermitted)) {
		t.Errorf("the hub's metrics with a node's certificate: %d %s", code, body)
	}
}
