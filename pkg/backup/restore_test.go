package backup_test

import (
	"bytes"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	logv1 "github.com/meshkit/meshkit/pkg/api/meshkit/log/v1"
	"github.com/meshkit/meshkit/pkg/backup"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/state"
	"github.com/meshkit/meshkit/pkg/store"
	"github.com/meshkit/meshkit/pkg/store/memstore"
)

func TestTheTermAfterARestoreIsAboveAllThatWereSeen(t *testing.T) {
	made := noon
	first := backup.TermFloor(7, made, noon.Add(time.Hour))
	second := backup.TermFloor(7, made, noon.Add(2*time.Hour))
	if first != uint64(noon.Add(time.Hour).UnixMilli()) || second <= first {
		t.Errorf("two restores of one backup go on in terms %d and %d", first, second)
	}
	if got := backup.TermFloor(first+5, noon.Add(time.Hour), noon.Add(3*time.Hour)); got <= second {
		t.Errorf("a backup from after a restore goes on in term %d", got)
	}
	for name, got := range map[string]uint64{
		"a clock behind the backup":          backup.TermFloor(7, made, noon.Add(-time.Hour)),
		"a clock of 1970":                    backup.TermFloor(7, time.Unix(0, 0), time.Unix(1, 0)),
		"a clock behind what terms went by":  backup.TermFloor(first+5, noon.Add(-time.Hour), noon) - first + 2,
		"a clock just ahead of what is seen": backup.TermFloor(7, time.UnixMilli(0), time.UnixMilli(1000)),
	} {
		if got != 7+backup.TermMargin {
			t.Errorf("%s: the term is %d", name, got)
		}
	}
}

func TestARestoredLogTellsOfItAndGoesOnAboveWhatIsLost(t *testing.T) {
	w := newWorld(t, domain, 1, 10)
	data := w.backup(t)
	v, err := backup.Verify(t.Context(), bytes.NewReader(data), w.check())
	if err != nil {
		t.Fatal(err)
	}
	plan := backup.Plan{Term: 5000, LostSeq: 20, LostTerm: 9, Author: "spiffe://eu-west/hub/hub1", By: "ops@machine", Now: noon.Add(-time.Hour)}
	server := memstore.New(memstore.Options{})
	fill := func(plan backup.Plan, in []byte) error {
		t.Helper()
		r := must(store.NewRestoration(server.Driver(), store.Options{}))(t)
		defer r.Close()
		return backup.Fill(t.Context(), r, bytes.NewReader(in), v, plan)
	}
	low := plan
	low.Term = 9
	if err := fill(low, data); fault.CodeOf(err) != fault.CodeTermFloor {
		t.Errorf("a term that was seen: %v", err)
	}
	other := newWorld(t, domain, 1, 11).backup(t)
	if err := fill(plan, other); fault.CodeOf(err) != fault.CodeBackupDamaged {
		t.Errorf("a file that changed after it was verified: %v", err)
	}
	if err := fill(plan, data); err != nil {
		t.Fatal(err)
	}
	l := must(store.Open(t.Context(), server.Driver(), store.Options{}))(t)
	t.Cleanup(func() { l.Close() })
	s := state.New()
	var last store.Entry
	for _, e := range must(l.Read(t.Context(), 0, 0))(t) {
		s, _ = must2(s.Apply(e.Entry, e.Hash))(t)
		last = e
	}
	m := &logv1.LogRestored{}
	if err := proto.Unmarshal(last.Payload, m); err != nil || last.Kind != state.KindLogRestored {
		t.Fatalf("the log ends with a %s (%v)", last.Kind, err)
	}
	if m.RestoredBy != "ops@machine" || m.KeptSeq != 11 || !bytes.Equal(m.BackupSha256, v.Sum[:]) || last.Time.AsTime().Before(noon) {
		t.Errorf("it says %v, at %v", m, last.Time.AsTime())
	}
	if s.Seq() != 21 || s.ConfigEpoch() != 5000 || s.ConfigSeq() != 21 || !s.GaveUp(20, 9) {
		t.Errorf("the state is of entry %d, version (%d, %d)", s.Seq(), s.ConfigEpoch(), s.ConfigSeq())
	}
}
