package demo

import (
	"context"
	"fmt"
	"os"
	"time"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
)

func (s *story) killHub(ctx context.Context) (string, error) {
	before, err := askAgent(ctx, s.socket(firstNode))
	if err != nil {
		return "", err
	}
	if before.version != s.version {
		return "", fmt.Errorf("agent %s is at version %d, not at %d", firstNode, before.version, s.version)
	}
	s.hub.kill()
	s.say.detail("kill -9 %d (meshhub)", s.hub.cmd.Process.Pid)
	err = s.await(ctx, startLimit, "the agent's noticing", func(ctx context.Context) (bool, error) {
		now, err := askAgent(ctx, s.socket(firstNode))
		s.point = now
		return !now.connected, err
	}, s.first, s.second, s.fleet)
	if err != nil {
		return "", err
	}
	if err := same(before, s.point); err != nil {
		return "", err
	}
	return fmt.Sprintf("hub is gone; agent %s still serves version %d.%d, %d resources, digest %.12s", firstNode, s.point.epoch, s.point.version, s.point.served, s.point.digest), nil
}

// same checks that an agent serves what it served before, all of it.
func same(before, now localStatus) error {
	if now.version != before.version || now.epoch != before.epoch || now.digest != before.digest {
		return fmt.Errorf("the agent moved from version %d.%d (%s) to %d.%d (%s)", before.epoch, before.version, before.digest, now.epoch, now.version, now.digest)
	}
	if now.served == 0 || now.served != now.signed {
		return fmt.Errorf("the agent serves %d resources; its signed manifest states %d", now.served, now.signed)
	}
	return nil
}

func (s *story) restartAgent(ctx context.Context) (string, error) {
	s.first.kill()
	s.say.detail("kill -9 %d (meshagent %s), and start it again", s.first.cmd.Process.Pid, firstNode)
	os.Remove(s.socket(firstNode)) // a killed process leaves its socket; the new one would replace it as well
	begun := time.Now()
	var err error
	if s.first, err = s.runAgent(firstNode); err != nil {
		return "", err
	}
	var now localStatus
	err = s.await(ctx, startLimit, "the agent's serving again", func(ctx context.Context) (bool, error) {
		now, err = askAgent(ctx, s.socket(firstNode))
		return now.version > 0, err
	}, s.first)
	if err != nil {
		return "", err
	}
	took := time.Since(begun)
	if err := same(s.point, now); err != nil {
		return "", err
	}
	if now.connected {
		return "", fmt.Errorf("the agent says that it is connected, but there is no hub")
	}
	return fmt.Sprintf("serving last-known-good %d.%d %s after start, %s: %d resources, same digest, signed by %.12s", now.epoch, now.version, ms(took), now.phase, now.served, now.signedBy), nil
}

func (s *story) resume(ctx context.Context) (string, error) {
	s.sup.stop(s.second) // it will miss a change
	took, err := s.runHub(ctx)
	if err != nil {
		return "", err
	}
	var d *adminv1.GetDomainResponse
	if err := s.awaitConnected(ctx, agentCount-1, &d); err != nil {
		return "", err
	}
	sent, err := updatesSent(ctx, s.target, s.metricsAddress)
	if err != nil {
		return "", err
	}
	if sent["snapshot"] > 0 {
		return "", fmt.Errorf("%d agents were sent everything again", sent["snapshot"])
	}
	s.say.detail("hub back after %s in epoch %d; %d agents resumed where they were, without a snapshot", ms(took), d.GetEpoch(), d.GetAgentsConnected())
	if _, err := s.apply(ctx, "second", "tighter timeout for the catalog"); err != nil {
		return "", err
	}
	if _, err := s.propagate(ctx, agentCount-1); err != nil {
		return "", err
	}
	if sent, err = updatesSent(ctx, s.target, s.metricsAddress); err != nil {
		return "", err
	}
	return s.catchUp(ctx, sent)
}

// catchUp brings the agent back that missed a change, and looks at what it was
// sent.
func (s *story) catchUp(ctx context.Context, before map[string]int) (string, error) {
	s.say.detail("version %d is everywhere but on %s, which was away; it starts now", s.version, secondNode)
	begun := time.Now()
	var err error
	if s.second, err = s.runAgent(secondNode); err != nil {
		return "", err
	}
	err = s.await(ctx, startLimit, "the agent's catching up", func(ctx context.Context) (bool, error) {
		now, err := askAgent(ctx, s.socket(secondNode))
		s.say.now("%s is at version %d", secondNode, now.version)
		return now.version == s.version && now.connected, err
	}, s.second, s.hub)
	if err != nil {
		return "", err
	}
	took := time.Since(begun)
	var sent map[string]int
	err = s.await(ctx, startLimit, "the hub's count of updates", func(ctx context.Context) (bool, error) {
		sent, err = updatesSent(ctx, s.target, s.metricsAddress)
		return sent["delta"]+sent["snapshot"] > before["delta"]+before["snapshot"], err
	}, s.hub)
	if err != nil {
		return "", err
	}
	if sent["snapshot"] > 0 || sent["delta"] <= before["delta"] {
		return "", fmt.Errorf("the hub sent %d snapshots and %d more deltas; 0 and at least 1 were to be expected", sent["snapshot"], sent["delta"]-before["delta"])
	}
	var d *adminv1.GetDomainResponse
	if err := s.awaitConnected(ctx, agentCount, &d); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d agents are back; since its return the hub sent %d deltas and %d snapshots; %s, which missed a change, caught up to version %d by delta in %s", d.GetAgentsConnected(), sent["delta"], sent["snapshot"], secondNode, s.version, ms(took)), nil
}
