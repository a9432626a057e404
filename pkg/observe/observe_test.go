package observe

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshkit/meshkit/pkg/fault"
)

func get(t *testing.T, h http.Handler, path string) (int, string) {
	t.Helper()
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, path, nil))
	return rec.Code, rec.Body.String()
}

func TestReadyzNamesWhatFailsAndHowToMendIt(t *testing.T) {
	h := NewHealth()
	h.Add("store", func(context.Context) error { return fault.New(fault.CodeIO, "disk is full") })
	h.Add("lease", func(context.Context) error { return nil })
	handler := Handler(NewRegistry("test"), h, nil)
	code, body := get(t, handler, "/readyz")
	if code != http.StatusServiceUnavailable || !strings.Contains(body, "disk is full") || !strings.Contains(body, "df -h") {
		t.Fatalf("got %d %s, want 503 with reason and remedy", code, body)
	}
	if strings.Contains(body, "lease") {
		t.Fatalf("%s lists a check that passed", body)
	}
	h.Remove("store")
	if code, body = get(t, handler, "/readyz"); code != http.StatusOK {
		t.Fatalf("got %d %s once the check is gone, want 200", code, body)
	}
}

// What is only to be seen to in time must not take all hubs out of service at once.
func TestAWarningLeavesTheProgramReady(t *testing.T) {
	h := NewHealth()
	h.Add("trust", func(context.Context) error { return Warn(fault.New(fault.CodeRootEnding, "the root ends soon")) })
	handler := Handler(NewRegistry("test"), h, nil)
	code, body := get(t, handler, "/readyz")
	if code != http.StatusOK || !strings.Contains(body, `"ready":true`) || !strings.Contains(body, "ends soon") || !strings.Contains(body, string(fault.CodeRootEnding)) {
		t.Errorf("got %d %s, want 200 with the warning", code, body)
	}
	h.Add("store", func(context.Context) error { return fault.New(fault.CodeIO, "disk is full") })
	if code, body = get(t, handler, "/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "ends soon") {
		t.Errorf("got %d %s with a failing check beside it", code, body)
	}
}

func TestACheckThatHangsIsAProblemNotAHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHealth()
		release := make(chan struct{})
		h.Add("stuck", func(context.Context) error { <-release; return nil })
		start := time.Now()
		problems := h.Problems(t.Context())
		if len(problems) != 1 || problems[0].Check != "stuck" {
			t.Fatalf("got %v, want the stuck check", problems)
		}
		if took := time.Since(start); took != checkTimeout {
			t.Fatalf("waited %v, want %v", took, checkTimeout)
		}
		close(release)
	})
}

func TestMetricsAreOnlyForTheAuthorized(t *testing.T) {
	deny := func(*http.Request) error { return errors.New("client certificate required") }
	handler := Handler(NewRegistry("test"), NewHealth(), deny)
	if code, body := get(t, handler, "/metrics"); code != http.StatusForbidden || strings.Contains(body, "meshkit_build_info") {
		t.Fatalf("got %d %.80s, want 403 without metrics", code, body)
	}
	if code, _ := get(t, handler, "/healthz"); code != http.StatusOK {
		t.Fatalf("healthz gave %d, want 200 for anyone", code)
	}
	open := Handler(NewRegistry("test"), NewHealth(), nil)
	if _, body := get(t, open, "/metrics"); !strings.Contains(body, `meshkit_build_info{`) {
		t.Fatal("metrics lack meshkit_build_info")
	}
}

func TestLoggerRefusesWhatItDoesNotKnow(t *testing.T) {
	for _, c := range [][2]string{{"xml", "info"}, {"json", "loud"}} {
		if _, err := NewLogger(&bytes.Buffer{}, c[0], c[1]); fault.CodeOf(err) != fault.CodeConfig {
			t.Fatalf("NewLogger(%s, %s) gave %v, want %s", c[0], c[1], err, fault.CodeConfig)
		}
	}
	var out bytes.Buffer
	l, err := NewLogger(&out, "json", "info")
	if err != nil {
		t.Fatal(err)
	}
	l.Debug("hidden")
	l.Info("shown", "took", 1500*time.Millisecond)
	if s := out.String(); strings.Contains(s, "hidden") || !strings.Contains(s, `"took":"1.5s"`) {
		t.Fatalf("got %s", s)
	}
}
