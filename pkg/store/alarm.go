package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"

	"github.com/meshkit/meshkit/pkg/fault"
)

// Alarms lie in Blobs, one for each hub that has seen an entry which the log does
// not hold any more:
//
//	wentback/<hex of the first 8 bytes of SHA-256 of the hub's name>
//
// The value is JSON of type Mark. They tell a hub that has not seen as much, so
// that it does not write on top of a log that was put back. Who can write into the
// store could plant one, and so stop writes, as with any other key.
const alarmPrefix = "wentback/"

// Mark is how far a hub has followed the log.
type Mark struct {
	Hub  string `json:"hub"`
	Seq  uint64 `json:"seq"`
	Term uint64 `json:"term"`
	// Hash of the entry at Seq, hex.
	Hash string `json:"hash"`
}

// MarkOf makes a Mark.
func MarkOf(hub string, h Head) Mark {
	return Mark{Hub: hub, Seq: h.Seq, Term: h.Term, Hash: hex.EncodeToString(h.Hash[:])}
}

// Head gives the entry that the mark names; false if it names none.
func (m Mark) Head() (Head, bool) {
	h := Head{Position: Position{Seq: m.Seq, Term: m.Term}}
	n, err := hex.Decode(h.Hash[:], []byte(m.Hash))
	return h, err == nil && n == len(h.Hash) && len(m.Hash) == 2*n
}

func alarmKey(hub string) string {
	sum := sha256.Sum256([]byte(hub))
	return alarmPrefix + hex.EncodeToString(sum[:8])
}

// RaiseAlarm tells the other hubs that this one has seen an entry which the log
// does not hold.
func (l *Log) RaiseAlarm(ctx context.Context, m Mark) error {
	data, err := json.Marshal(m)
	if err != nil {
		return fault.New(fault.CodeInternal, "encode mark of hub %s: %w", m.Hub, err)
	}
	return l.blobs.Put(ctx, alarmKey(m.Hub), data)
}

// ClearAlarm takes a hub's alarm back.
func (l *Log) ClearAlarm(ctx context.Context, hub string) error {
	return l.blobs.Delete(ctx, alarmKey(hub))
}

// Alarms lists what hubs have seen that the log did not hold.
func (l *Log) Alarms(ctx context.Context) ([]Mark, error) {
	keys, err := l.blobs.List(ctx, alarmPrefix)
	if err != nil {
		return nil, err
	}
	var out []Mark
	for _, k := range keys {
		data, err := l.blobs.Get(ctx, k)
		if errors.Is(err, fault.CodeBlobMissing) {
			continue // taken back meanwhile
		}
		if err != nil {
			return nil, err
		}
		var m Mark
		err = json.Unmarshal(data, &m)
		if _, ok := m.Head(); err != nil || !ok || alarmKey(m.Hub) != k {
			continue // not a hub's: the hub that raised one raises it again
		}
		out = append(out, m)
	}
	return out, nil
}

// Unused tells whether the store has nothing of a domain's log: CodeStoreRemains if a hub
// raised an alarm, by which it has seen entries of one that is empty now. Whether that
// domain was given up, or is to have its log back, only a person knows; and a hub of it
// that still runs would raise the alarm again over a log that is another.
func (l *Log) Unused(ctx context.Context) error {
	marks, err := l.Alarms(ctx)
	if err != nil || len(marks) == 0 {
		return err
	}
	m := marks[0]
	how := "remove all that is left of it there"
	if d, ok := l.driver.(Removable); ok {
		how = "`" + d.Removal() + "`"
	}
	return fault.New(fault.CodeStoreRemains, "hub %s has seen entry %d of term %d of a domain of this name, whose log is empty now", m.Hub, m.Seq, m.Term).
		WithRemedy("If that domain is given up for good: stop its hubs, then %s, and run this again. If it is not, put its log back from a backup; no new domain takes its place. Another name or store is free of it.", how)
}
