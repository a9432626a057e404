package omnirelay

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	relay "github.com/meshkit/meshkit/pkg/api/omnirelay/control"
	mesh "github.com/meshkit/meshkit/pkg/api/omnirelay/mesh/control/v1"
)

// The table is OmniRelay's, name by name and number by number. What a build of it that
// is out there sends and expects does not change.
const controlTable = `
rpc omnirelay.control.ControlPlaneWatch.Watch(ControlWatchRequest) stream ControlWatchResponse
rpc omnirelay.control.ControlPlaneWatch.Snapshot(ControlSnapshotRequest) ControlSnapshotResponse
CapabilitySet items=1:repeated string build_epoch=2:string
WatchResumeToken version=1:string epoch=2:int64 opaque=3:bytes
ControlWatchRequest node_id=1:string capabilities=2:CapabilitySet resume_token=3:WatchResumeToken
ControlBackoff millis=1:int64
ControlError code=1:string message=2:string remediation=3:string
ControlWatchResponse version=1:string epoch=2:int64 payload=3:bytes full_snapshot=4:bool resume_token=5:WatchResumeToken backoff=6:ControlBackoff error=7:ControlError required_capabilities=8:repeated string
ControlSnapshotRequest node_id=1:string capabilities=2:CapabilitySet
ControlSnapshotResponse version=1:string epoch=2:int64 payload=3:bytes required_capabilities=4:repeated string
`

const meshTable = `
rpc omnirelay.mesh.control.v1.LeadershipControlService.Subscribe(LeadershipSubscribeRequest) stream LeadershipEvent
LeadershipToken scope=1:string scope_kind=2:string leader_id=3:string term=4:int64 fence_token=5:int64 issued_at=6:Timestamp expires_at=7:Timestamp labels=8:map<string,string>
LeadershipEvent kind=1:LeadershipEventKind scope=2:string leader_id=3:string token=4:LeadershipToken reason=5:string correlation_id=6:string occurred_at=7:Timestamp
LeadershipSubscribeRequest scope=1:string
enum LeadershipEventKind LEADERSHIP_EVENT_KIND_UNSPECIFIED=0 LEADERSHIP_EVENT_KIND_SNAPSHOT=1 LEADERSHIP_EVENT_KIND_OBSERVED=2 LEADERSHIP_EVENT_KIND_ELECTED=3 LEADERSHIP_EVENT_KIND_RENEWED=4 LEADERSHIP_EVENT_KIND_LOST=5 LEADERSHIP_EVENT_KIND_EXPIRED=6 LEADERSHIP_EVENT_KIND_STEPPED_DOWN=7
`

func TestTheSchemasAreOmniRelays(t *testing.T) {
	for want, file := range map[string]protoreflect.FileDescriptor{
		controlTable: relay.File_omnirelay_control_control_proto, meshTable: mesh.File_omnirelay_mesh_control_v1_leadership_proto,
	} {
		got := describe(file)
		for line := range strings.SplitSeq(strings.TrimSpace(want), "\n") {
			if !strings.Contains(got, line+"\n") {
				t.Errorf("%s lacks\n%s", file.Path(), line)
			}
		}
		if n, m := strings.Count(got, "\n"), strings.Count(strings.TrimSpace(want), "\n")+1; n != m {
			t.Errorf("%s has %d declarations, OmniRelay has %d:\n%s", file.Path(), n, m, got)
		}
	}
}

func describe(f protoreflect.FileDescriptor) string {
	var b strings.Builder
	for i := range f.Services().Len() {
		s := f.Services().Get(i)
		for j := range s.Methods().Len() {
			m := s.Methods().Get(j)
			stream := ""
			if m.IsStreamingClient() {
				stream = "client-stream "
			}
			if m.IsStreamingServer() {
				stream += "stream "
			}
			fmt.Fprintf(&b, "rpc %s(%s) %s%s\n", m.FullName(), m.Input().Name(), stream, m.Output().Name())
		}
	}
	for i := range f.Messages().Len() {
		m := f.Messages().Get(i)
		b.WriteString(string(m.Name()))
		for j := range m.Fields().Len() {
			fd := m.Fields().Get(j)
			fmt.Fprintf(&b, " %s=%d:%s", fd.Name(), fd.Number(), typeOf(fd))
		}
		b.WriteByte('\n')
	}
	for i := range f.Enums().Len() {
		e := f.Enums().Get(i)
		fmt.Fprintf(&b, "enum %s", e.Name())
		for j := range e.Values().Len() {
			fmt.Fprintf(&b, " %s=%d", e.Values().Get(j).Name(), e.Values().Get(j).Number())
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func typeOf(f protoreflect.FieldDescriptor) string {
	if f.IsMap() {
		return fmt.Sprintf("map<%s,%s>", f.MapKey().Kind(), f.MapValue().Kind())
	}
	name := f.Kind().String()
	switch {
	case f.Message() != nil:
		name = string(f.Message().Name())
	case f.Enum() != nil:
		name = string(f.Enum().Name())
	}
	if f.IsList() {
		return "repeated " + name
	}
	return name
}

// What is written by hand around a bundle is what generated code would write.
func TestAFrameIsTheMessageThatItStandsFor(t *testing.T) {
	l := newLab(t)
	v := l.publish(1, 1, 3, 1000)
	f, err := NewFrames(0).of(frameView{domain: domain, view: v.View}, v, l.anchors, func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	var watch relay.ControlWatchResponse
	if err := proto.Unmarshal(f.watch.Bytes(), &watch); err != nil {
		t.Fatal(err)
	}
	if watch.GetVersion() != "1" || watch.GetEpoch() != 1 || !watch.GetFullSnapshot() || len(watch.GetPayload()) < 3000 || watch.GetError() != nil || watch.GetBackoff() != nil {
		t.Errorf("the response is version %q, epoch %d, full %t, %d bytes, error %v", watch.GetVersion(), watch.GetEpoch(), watch.GetFullSnapshot(), len(watch.GetPayload()), watch.GetError())
	}
	var snapshot relay.ControlSnapshotResponse
	if err := proto.Unmarshal(f.snapshot.Bytes(), &snapshot); err != nil {
		t.Fatal(err)
	}
	if snapshot.GetVersion() != "1" || snapshot.GetEpoch() != 1 || string(snapshot.GetPayload()) != string(watch.GetPayload()) || len(snapshot.GetRequiredCapabilities()) != 1 {
		t.Errorf("the snapshot is version %q, epoch %d, required %q", snapshot.GetVersion(), snapshot.GetEpoch(), snapshot.GetRequiredCapabilities())
	}
	for _, n := range [][]byte{f.watch.Bytes(), f.snapshot.Bytes()} {
		if num, typ, _ := protowire.ConsumeTag(n); num != 1 || typ != protowire.BytesType {
			t.Errorf("the first field is %d", num)
		}
	}
}
