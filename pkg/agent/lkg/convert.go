package lkg

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/meshkit/meshkit/pkg/agent/activation"
	agentv1 "github.com/meshkit/meshkit/pkg/api/meshkit/agent/v1"
	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	"github.com/meshkit/meshkit/pkg/digest"
	"github.com/meshkit/meshkit/pkg/fault"
)

// pointToProto gives nil for the zero point.
func pointToProto(p activation.Point) *controlv1.ResumePoint {
	if p.IsZero() {
		return nil
	}
	return &controlv1.ResumePoint{Epoch: p.Epoch, Version: p.Version, View: p.View, Digest: p.Digest.Bytes()}
}

func pointFromProto(p *controlv1.ResumePoint) (activation.Point, error) {
	if p == nil {
		return activation.Point{}, nil
	}
	h, err := digest.HashOf(p.GetDigest())
	if err != nil {
		return activation.Point{}, err
	}
	return activation.Point{Epoch: p.GetEpoch(), Version: p.GetVersion(), View: p.GetView(), Digest: h}, nil
}

func timeToProto(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func timeFromProto(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

// stateToProto describes d, with the proofs of its generations.
func stateToProto(d activation.Durable, contents map[activation.Point]*Content) *agentv1.LkgState {
	out := &agentv1.LkgState{
		Highest: pointToProto(d.Highest), Pinned: d.Pinned, PinReason: d.PinReason,
		Crashes: uint32(max(d.Crashes, 0)), Running: d.Running,
	}
	for _, g := range d.Generations {
		c := contents[g.Point]
		out.Generations = append(out.Generations, &agentv1.LkgGeneration{
			Point: pointToProto(g.Point), State: string(g.Status), Reason: g.Reason,
			ActivatedAt: timeToProto(g.ActivatedAt), VerifiedAt: timeToProto(c.VerifiedAt),
			Manifest: c.Manifest, Vouch: c.Vouch, VouchedAt: timeToProto(c.VouchedAt),
		})
	}
	for _, q := range d.Quarantine {
		out.Quarantine = append(out.Quarantine, &agentv1.LkgQuarantine{
			Point: pointToProto(q.Point), Code: string(q.Code), Message: q.Message, Since: timeToProto(q.Since),
		})
	}
	return out
}

// marksFromProto reads everything of a state but its generations.
func marksFromProto(st *agentv1.LkgState) activation.Durable {
	d := activation.Durable{Pinned: st.GetPinned(), PinReason: st.GetPinReason(), Crashes: int(st.GetCrashes()), Running: st.GetRunning()}
	d.Highest, _ = pointFromProto(st.GetHighest())
	for _, q := range st.GetQuarantine() {
		p, err := pointFromProto(q.GetPoint())
		if err != nil || len(d.Quarantine) == activation.MaxQuarantine {
			continue
		}
		d.Quarantine = append(d.Quarantine, activation.Quarantined{Point: p, Code: fault.Code(q.GetCode()), Message: q.GetMessage(), Since: timeFromProto(q.GetSince())})
	}
	return d
}
