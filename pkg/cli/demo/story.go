package demo

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/cli/change"
	"github.com/meshkit/meshkit/pkg/cli/cliutil"
	"github.com/meshkit/meshkit/pkg/client"
	"github.com/meshkit/meshkit/pkg/fault"
)

// sample is the mesh of the demo and the changes made to it.
//
//go:embed sample
var sample embed.FS

// domain is the demo's trust domain; agents are named after where they run.
const (
	domain     = "demo"
	firstNode  = "eu-1"
	secondNode = "us-1"
	fleetSize  = 18
	agentCount = fleetSize + 2
)

// Time limits of what the demo waits for. The sum of what usually happens is
// far below a minute.
const (
	startLimit     = 15 * time.Second
	propagateLimit = 15 * time.Second
)

// story is the state that the steps build on; one goroutine uses it.
type story struct {
	app  *cliutil.App
	sup  *supervisor
	dir  string
	say  *narrator
	bins programs

	hubAddress, metricsAddress string
	target                     client.Config
	client                     *client.Client
	hub, first, second, fleet  *process
	// version is the newest config sequence, and point what the first agent's
	// own socket said of it.
	version uint64
	point   localStatus
}

func (s *story) steps() []step {
	return []step{
		{"programs", "The programs", "The demo runs the real meshhub and meshagent, not copies of their insides.", s.findPrograms},
		{"hub", "A hub, alone", "Keys, root of trust, CA and admin credentials are made; the log lives in one file.\nEvery port speaks TLS 1.3 and asks for a certificate.", s.startHub},
		{"agents", "Twenty agents join", "Each brings a token, proves the hub by its CA pin, and gets an identity of its own.\nTwo run as programs of their own, eighteen share one process.", s.joinAgents},
		{"publish", "Publish a mesh", "Shop, payments and catalog: weights, a mirror, failover, rate limits, policies in CEL.\nChecked as a whole, appended to the log, signed once per view, acknowledged by each agent.", s.publish},
		{"change", "Change one weight", "The canary goes from a tenth to half. Only the difference travels.", s.changeWeight},
		{"refuse", "Try a broken configuration", "A slip of the keyboard never leaves this machine; a dangling reference is refused by the hub.\nNothing is half applied.", s.refuse},
		{"kill", "Kill the hub", "SIGKILL, no goodbye. Agents keep serving what they have.", s.killHub},
		{"restart", "Restart an agent without a hub", "It loads its last-known-good, verifies signature and digest again, and serves it on its socket.", s.restartAgent},
		{"resume", "The hub returns", "One agent is away while the mesh changes. Everyone resumes where they were;\nthe one that missed something is sent the difference, not the whole.", s.resume},
	}
}

func (s *story) close() {
	if s.client != nil {
		s.client.Close()
	}
}

// failed turns a step's error into the demo's, with the ends of the logs.
func (s *story) failed(ctx context.Context, st step, err error) error {
	if ctx.Err() != nil {
		return fault.New(fault.CodeInterrupted, "demo interrupted in step %q", st.name).WithRemedy("nothing is left to clean up; run it again")
	}
	logs, _ := filepath.Glob(filepath.Join(s.dir, "*.log"))
	for _, log := range logs {
		if data, readErr := os.ReadFile(log); readErr == nil && len(data) > 0 {
			s.app.IO.Notef("── end of %s", filepath.Base(log))
			s.app.IO.Notef("%s", tail(string(data), 6))
		}
	}
	failed := fault.New(fault.CodeDemoStep, "step %q: %w", st.name, err)
	if errors.Is(err, fault.CodeDemoPrograms) {
		return failed.WithRemedy("%s", fault.RemedyOf(err)) // the logs say nothing of it
	}
	return failed
}

// hold prints what other clients need, as a shell reads it.
func (s *story) hold() {
	for _, e := range [][2]string{
		{"MESHKIT_HUB", s.target.Hub}, {"MESHKIT_CA_FILE", s.target.CAFile}, {"MESHKIT_CERT_FILE", s.target.CertFile}, {"MESHKIT_KEY_FILE", s.target.KeyFile},
		{"MESHKIT_CONFIG", s.path("hub", "admin", "context.yaml")}, {"MESHKIT_AGENT_SOCKET", s.socket(firstNode)},
	} {
		s.app.IO.Outf("export %s=%s", e[0], cliutil.ShellQuote(e[1]))
	}
	s.app.IO.Notef("everything keeps running; Ctrl-C ends it and removes %s", s.dir)
}

func (s *story) path(parts ...string) string {
	return filepath.Join(append([]string{s.dir}, parts...)...)
}

func (s *story) socket(node string) string { return s.path(node, "agent.sock") }

// unpack writes a directory of the sample into the demo's and gives its path.
func (s *story) unpack(name string) (string, error) {
	err := fs.WalkDir(sample, "sample/"+name, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		target := s.path(filepath.FromSlash(strings.TrimPrefix(p, "sample/")))
		if d.IsDir() {
			return os.MkdirAll(target, 0o700)
		}
		data, err := sample.ReadFile(p)
		if err != nil {
			return err
		}
		return os.WriteFile(target, data, 0o600)
	})
	if err != nil {
		return "", fault.New(fault.CodeIO, "write the sample: %w", err)
	}
	return s.path(name), nil
}

// load unpacks and decodes a part of the sample.
func (s *story) load(name string) (*change.Input, error) {
	dir, err := s.unpack(name)
	if err != nil {
		return nil, err
	}
	return change.Load(nil, []string{dir})
}

// apply commits a part of the sample.
func (s *story) apply(ctx context.Context, name, message string) (*adminv1.ApplyResponse, error) {
	in, err := s.load(name)
	if err != nil {
		return nil, err
	}
	if len(in.Findings) > 0 {
		return nil, fmt.Errorf("the sample %s is not valid: %s", name, in.Findings[0])
	}
	id := s.app.NewID()
	resp, err := s.client.Apply(ctx, &adminv1.ApplyRequest{Change: in.Change(message), RequestId: id})
	if err != nil {
		return nil, err
	}
	if f := resp.GetPlan().GetFindings(); resp.GetSeq() == 0 && len(f) > 0 {
		return nil, fmt.Errorf("the hub refused %s: %s", name, f[0].GetReason())
	}
	if resp.GetSeq() == 0 {
		return nil, fmt.Errorf("applying %s changed nothing", name)
	}
	s.version = resp.GetSeq()
	return resp, nil
}

// propagate follows the newest version until at least want agents have it.
func (s *story) propagate(ctx context.Context, want uint64) (*adminv1.WatchPropagationResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, propagateLimit)
	defer cancel()
	var last *adminv1.WatchPropagationResponse
	err := s.client.WatchPropagation(ctx, s.version, func(r *adminv1.WatchPropagationResponse) error {
		last = r
		s.say.now("%d of %d agents have version %d", r.GetAcked(), want, s.version)
		if r.GetNacked() > 0 {
			n := r.GetNacks()[0]
			return fmt.Errorf("agent %s refused version %d: [%s] %s", n.GetNode(), s.version, n.GetNack().GetCode(), n.GetNack().GetMessage())
		}
		if r.GetDone() && r.GetAcked() >= want {
			return errEnough
		}
		return nil
	})
	if err == errEnough {
		return last, nil
	}
	if err == nil || ctx.Err() != nil {
		return nil, fmt.Errorf("version %d reached %d of %d agents in %s", s.version, last.GetAcked(), want, propagateLimit)
	}
	return nil, err
}

var errEnough = fmt.Errorf("enough agents have it")

// await asks until cond holds, watching that the given processes keep running.
func (s *story) await(ctx context.Context, limit time.Duration, what string, cond func(context.Context) (bool, error), procs ...*process) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		ok, err := cond(ctx)
		if ok && err == nil {
			return nil
		}
		if err != nil && ctx.Err() == nil {
			last = err
		}
		for _, p := range procs {
			if err := p.ended(); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			if last != nil {
				return fmt.Errorf("%s: not within %s: %w", what, limit, last)
			}
			return fmt.Errorf("%s: not within %s", what, limit)
		case <-tick.C:
		}
	}
}

func ms(d time.Duration) string {
	if d < 10*time.Millisecond {
		return d.Round(100 * time.Microsecond).String()
	}
	return d.Round(time.Millisecond).String()
}
