package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/cli/cliutil"
	"github.com/meshkit/meshkit/pkg/client"
)

func (s *story) findPrograms(ctx context.Context) (string, error) {
	var err error
	var told time.Time
	s.bins, err = locate(ctx, s.sup, func(what string) {
		s.say.now("%s", what)
		if !s.say.lively && time.Since(told) > 10*time.Second { // a log wants no line per package
			told = time.Now()
			s.app.IO.Notef("%s", what)
		}
	})
	if err != nil {
		return "", err
	}
	return "meshhub and meshagent " + s.bins.found, nil
}

func (s *story) startHub(ctx context.Context) (string, error) {
	var err error
	if s.hubAddress, err = freeAddress(); err != nil {
		return "", err
	}
	if s.metricsAddress, err = freeAddress(); err != nil {
		return "", err
	}
	s.say.now("meshhub init --domain %s", domain)
	if err := s.sup.run(ctx, "init", s.bins.hub, "init", "--domain", domain, "--data", s.path("hub"),
		"--listen", s.hubAddress, "--metrics", s.metricsAddress, "--advertise", s.hubAddress); err != nil {
		return "", err
	}
	took, err := s.runHub(ctx)
	if err != nil {
		return "", err
	}
	file, err := cliutil.LoadContexts(s.path("hub", "admin", "context.yaml"))
	if err != nil {
		return "", err
	}
	admin, err := file.Choose("")
	if err != nil {
		return "", err
	}
	s.target = client.Config{Hub: s.hubAddress, Domain: domain, CAFile: admin.CAFile, CertFile: admin.CertFile, KeyFile: admin.KeyFile}
	if s.client, err = client.Dial(s.target); err != nil {
		return "", err
	}
	d, err := s.client.Domain(ctx)
	if err != nil {
		return "", err
	}
	if d.GetDomain() != domain {
		return "", fmt.Errorf("the hub says it serves domain %q", d.GetDomain())
	}
	return fmt.Sprintf("hub %s leads domain %s on %s, store %s, epoch %d, ready %s after start", d.GetHub(), domain, s.hubAddress, d.GetStore(), d.GetEpoch(), ms(took)), nil
}

// runHub starts the hub and waits until it says that it is ready.
func (s *story) runHub(ctx context.Context) (time.Duration, error) {
	begun := time.Now()
	ready := s.path("hub.ready")
	os.Remove(ready) // left by a hub that was killed
	var err error
	s.hub, err = s.sup.start("meshhub", s.bins.hub, "run", "--config", s.path("hub", "meshhub.yaml"), "--ready-file", ready)
	if err != nil {
		return 0, err
	}
	s.say.now("waiting for the hub")
	err = s.await(ctx, startLimit, "the hub's readiness", func(context.Context) (bool, error) {
		data, err := os.ReadFile(ready)
		if err != nil {
			return false, nil // not yet
		}
		var said struct{ Listen, Metrics string }
		if err := json.Unmarshal(data, &said); err != nil {
			return false, fmt.Errorf("read %s: %w", ready, err)
		}
		if _, _, err := net.SplitHostPort(said.Metrics); err == nil {
			s.metricsAddress = said.Metrics
		}
		return true, nil
	}, s.hub)
	return time.Since(begun), err
}

// token makes a join token for n nodes of a region.
func (s *story) token(ctx context.Context, region string, n uint32) (*adminv1.CreateTokenResponse, error) {
	return s.client.CreateToken(ctx, &adminv1.CreateTokenRequest{Labels: map[string]string{"region": region}, Ttl: durationpb.New(10 * time.Minute), Uses: n, RequestId: s.app.NewID()})
}

func (s *story) joinAgents(ctx context.Context) (string, error) {
	for _, node := range []string{firstNode, secondNode} {
		s.say.now("meshagent join --node %s", node)
		t, err := s.token(ctx, node[:2], 1)
		if err != nil {
			return "", err
		}
		if err := s.sup.run(ctx, node+"-join", s.bins.agent, "join", "--hub", s.hubAddress, "--token", t.GetToken(), "--ca-pin", t.GetCaPin(),
			"--data", s.path(node), "--node", node, "--listen", "127.0.0.1:0"); err != nil {
			return "", err
		}
	}
	var err error
	if s.first, err = s.runAgent(firstNode); err != nil {
		return "", err
	}
	if s.second, err = s.runAgent(secondNode); err != nil {
		return "", err
	}
	s.say.now("meshagent fleet --count %d", fleetSize)
	t, err := s.token(ctx, "us", fleetSize)
	if err != nil {
		return "", err
	}
	s.fleet, err = s.sup.start("fleet", s.bins.agent, "fleet", "--hub", s.hubAddress, "--token", t.GetToken(), "--ca-pin", t.GetCaPin(),
		"--count", strconv.Itoa(fleetSize), "--data", s.path("fleet"))
	if err != nil {
		return "", err
	}
	var d *adminv1.GetDomainResponse
	err = s.awaitConnected(ctx, agentCount, &d)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d agents joined and connected: 2 programs, %d in one process, %d distinct identities", d.GetAgentsConnected(), fleetSize, d.GetAgents()), nil
}

func (s *story) runAgent(node string) (*process, error) {
	return s.sup.start(node, s.bins.agent, "run", "--config", s.path(node, "meshagent.yaml"), "--ready-file", s.path(node+".ready"))
}

// awaitConnected waits until that many agents are connected to the hub.
func (s *story) awaitConnected(ctx context.Context, want uint64, d **adminv1.GetDomainResponse) error {
	return s.await(ctx, 2*startLimit, fmt.Sprintf("%d agents connected", want), func(ctx context.Context) (bool, error) {
		got, err := s.client.Domain(ctx)
		if err != nil {
			return false, err
		}
		*d = got
		s.say.now("%d of %d agents are connected", got.GetAgentsConnected(), want)
		return got.GetAgentsConnected() >= want, nil
	}, s.hub, s.first, s.fleet)
}
