package observe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/meshkit/meshkit/pkg/fault"
)

// checkTimeout bounds one run of all checks.
const checkTimeout = 2 * time.Second

// Check says why a part is not ready, or nil.
type Check func(ctx context.Context) error

// Health holds a program's readiness checks by name.
type Health struct {
	mu     sync.RWMutex // guards checks
	checks map[string]Check
}

// NewHealth makes a Health without checks, which is ready.
func NewHealth() *Health { return &Health{checks: make(map[string]Check)} }

// Add registers a check; one of the same name is replaced.
func (h *Health) Add(name string, c Check) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.checks[name] = c
}

// Remove drops a check.
func (h *Health) Remove(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.checks, name)
}

// Problem is one failing check.
type Problem struct {
	Check  string     `json:"check"`
	Reason string     `json:"reason"`
	Code   fault.Code `json:"code,omitempty"`
	Remedy string     `json:"remedy,omitempty"`
	// Warning: it is to be seen to, and keeps nothing from being served now.
	Warning bool `json:"warning,omitempty"`
}

type warning struct{ error }

func (w warning) Unwrap() error { return w.error }

// Warn makes a check's error a warning, which leaves the program ready.
func Warn(err error) error {
	if err == nil {
		return nil
	}
	return warning{err}
}

// Problems runs every check, at the same time, and gives those that fail, by
// name. A check that does not answer within two seconds fails.
func (h *Health) Problems(ctx context.Context) []Problem {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	h.mu.RLock()
	results := make(chan Problem, len(h.checks))
	pending := make(map[string]bool, len(h.checks))
	for name, check := range h.checks {
		pending[name] = true
		go func() { results <- problemOf(name, check(ctx)) }()
	}
	h.mu.RUnlock()

	var out []Problem
	for len(pending) > 0 {
		select {
		case p := <-results:
			delete(pending, p.Check)
			if p.Reason != "" {
				out = append(out, p)
			}
		case <-ctx.Done():
			for name := range pending {
				out = append(out, Problem{Check: name, Reason: fmt.Sprintf("no answer within %v", checkTimeout)})
			}
			clear(pending)
		}
	}
	slices.SortFunc(out, func(a, b Problem) int {
		if a.Check < b.Check {
			return -1
		}
		return 1
	})
	return out
}

func problemOf(name string, err error) Problem {
	if err == nil {
		return Problem{Check: name}
	}
	_, warns := errors.AsType[warning](err)
	return Problem{Check: name, Reason: err.Error(), Code: fault.CodeOf(err), Remedy: fault.RemedyOf(err), Warning: warns}
}

// Handler serves /metrics (Prometheus text and OpenMetrics), /healthz (200 while
// the process can answer) and /readyz (200, or 503 unless the failing checks, which it
// lists as JSON, are all warnings). authorize decides who may read /metrics; nil means everyone that the
// listener admits.
func Handler(r *Registry, h *Health, authorize func(*http.Request) error) http.Handler {
	mux := http.NewServeMux()
	metrics := promhttp.HandlerFor(r, promhttp.HandlerOpts{EnableOpenMetrics: true, MaxRequestsInFlight: 4, Timeout: 10 * time.Second})
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, req *http.Request) {
		if authorize != nil {
			if err := authorize(req); err != nil {
				http.Error(w, strings.TrimPrefix(string(fault.CodeOf(err))+": "+err.Error(), ": "), http.StatusForbidden)
				return
			}
		}
		metrics.ServeHTTP(w, req)
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write([]byte("ok\n"))
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, req *http.Request) {
		problems := h.Problems(req.Context())
		w.Header().Set("Content-Type", "application/json")
		ready := !slices.ContainsFunc(problems, func(p Problem) bool { return !p.Warning })
		if !ready {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"ready": ready, "problems": problems})
	})
	return mux
}

// NewServer makes an HTTP server for Handler with bounds on everything a client
// can hold open.
func NewServer(handler http.Handler) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
	}
}
