package demo

import (
	"bufio"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/local"
	"google.golang.org/protobuf/proto"

	agentv1 "github.com/meshkit/meshkit/pkg/api/meshkit/agent/v1"
	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/client"
	"github.com/meshkit/meshkit/pkg/mtls"
	"github.com/meshkit/meshkit/pkg/wire"
)

// localStatus is what an agent says of itself on its own socket.
type localStatus struct {
	phase     string
	connected bool
	epoch     uint64
	version   uint64
	digest    string
	// served and signed are the resources that the socket gives out, and how many
	// the signed manifest states.
	served, signed int
	signedBy       string
}

// askAgent asks an agent's socket for its status and its active content. It
// needs no hub.
func askAgent(ctx context.Context, socket string) (localStatus, error) {
	options := append(wire.DialOptions(wire.DialConfig{ReceiveBytes: 256 << 20}), grpc.WithTransportCredentials(local.NewCredentials()))
	conn, err := grpc.NewClient("unix://"+socket, options...)
	if err != nil {
		return localStatus{}, fmt.Errorf("dial the agent's socket: %w", err)
	}
	defer conn.Close()
	agent := agentv1.NewAgentServiceClient(conn)
	st, err := agent.GetStatus(ctx, &agentv1.GetStatusRequest{})
	if err != nil {
		return localStatus{}, fmt.Errorf("ask the agent for its status: %w", err)
	}
	out := localStatus{phase: phaseWord(st.GetPhase()), connected: st.GetConnected()}
	if len(st.GetGenerations()) == 0 {
		return out, nil
	}
	p := st.GetGenerations()[0].GetPoint()
	out.epoch, out.version, out.digest = p.GetEpoch(), p.GetVersion(), hex.EncodeToString(p.GetDigest())
	bundle, err := agent.GetBundle(ctx, &agentv1.GetBundleRequest{})
	if err != nil {
		return out, fmt.Errorf("ask the agent for its content: %w", err)
	}
	var m trustv1.Manifest
	if err := proto.Unmarshal(bundle.GetManifest().GetPayload(), &m); err != nil {
		return out, fmt.Errorf("read the agent's manifest: %w", err)
	}
	out.served, out.signed = len(bundle.GetResources()), int(m.GetCount())
	for _, s := range bundle.GetManifest().GetSignatures() {
		out.signedBy = s.GetKeyId()
	}
	return out, nil
}

func phaseWord(p controlv1.Phase) string {
	return strings.ToLower(strings.TrimPrefix(p.String(), "PHASE_"))
}

// updatesSent reads from the hub's metrics how many updates it sent since it
// started, by how: "delta" and "snapshot".
func updatesSent(ctx context.Context, cfg client.Config, address string) (map[string]int, error) {
	source, err := client.LoadCredentials(cfg)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{TLSClientConfig: mtls.ClientConfig(source, mtls.AnyHub)}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+address+"/metrics", nil)
	if err != nil {
		return nil, fmt.Errorf("read the hub's metrics: %w", err)
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return nil, fmt.Errorf("read the hub's metrics: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("read the hub's metrics: %s", resp.Status)
	}
	return parseUpdates(io.LimitReader(resp.Body, 16<<20))
}

const updatesMetric = "meshkit_control_updates_total"

// parseUpdates picks lines like `meshkit_control_updates_total{how="delta"} 3`
// out of the Prometheus text format.
func parseUpdates(r io.Reader) (map[string]int, error) {
	out := make(map[string]int)
	s := bufio.NewScanner(r)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		rest, ok := strings.CutPrefix(s.Text(), updatesMetric+"{")
		if !ok {
			continue
		}
		labels, value, ok := strings.Cut(rest, "} ")
		if !ok {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
		if err != nil {
			return nil, fmt.Errorf("read metric %q: %w", s.Text(), err)
		}
		for _, l := range strings.Split(labels, ",") {
			if how, ok := strings.CutPrefix(l, `how="`); ok {
				out[strings.TrimSuffix(how, `"`)] += int(n)
			}
		}
	}
	return out, s.Err()
}
