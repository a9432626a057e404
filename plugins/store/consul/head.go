package consul

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/hashicorp/consul/api"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/store"
)

const (
	// txnOps is how many operations one transaction may have on every server.
	txnOps = 64
	// inlineBytes is the largest entry that lies in its own key; a batch of
	// batchBytes and one such entry fit a transaction of 512 KiB in base64.
	inlineBytes = 96 << 10
	batchBytes  = 192 << 10
	// chunkBytes is the size of a chunk of an entry.
	chunkBytes = store.MaxBlob
	// packEntries is how many entries share a key: as many as one more look can find
	// the beginning of.
	packEntries = txnOps - 4
	// recordBytes is the largest entry: its chunks are written one by one before it.
	recordBytes = 160 << 20
	// pageBytes ends a page of Read.
	pageBytes = 4 << 20
)

// head is the value of the head key: the only one that is changed in place.
type head struct {
	// Seq and Term of the newest entry; Start is the first one that lies in the same
	// key. 0: not known.
	Seq   uint64 `json:"seq"`
	Term  uint64 `json:"term"`
	Start uint64 `json:"start,omitempty"`
	// Trimmed is the last entry that was dropped.
	Trimmed uint64 `json:"trimmed"`
	// Lease is the term of the newest lease, Session the session that began it.
	Lease   uint64 `json:"lease"`
	Session string `json:"session"`
	Holder  string `json:"holder"`
	Address string `json:"address"`
}

// versioned is a head and the index at which Consul has it; 0: there is none.
type versioned struct {
	head
	index uint64
}

func (h head) encode() []byte {
	v, err := json.Marshal(h)
	if err != nil {
		panic(err) // numbers and strings
	}
	sum := sha256.Sum256(v)
	return append(sum[:8:8], v...)
}

func (d *Driver) decodeHead(kv *api.KVPair) (versioned, error) {
	if kv == nil {
		return versioned{}, nil
	}
	var h head
	v := kv.Value
	if len(v) >= 8 {
		if sum := sha256.Sum256(v[8:]); bytes.Equal(sum[:8], v[:8]) && json.Unmarshal(v[8:], &h) == nil {
			return versioned{head: h, index: kv.ModifyIndex}, nil
		}
	}
	return versioned{}, fault.New(fault.CodeCorrupt, "Consul key %s is damaged: it was not written by a hub", kv.Key).
		WithRemedy("%s", d.mend())
}

// mend is the remedy for keys that were damaged.
func (d *Driver) mend() string {
	return fmt.Sprintf("Put all keys under %s back from one Consul snapshot; see docs/runbooks/consul.md, \"Keys edited or deleted by hand\".", d.root)
}

// Place implements store.Placed. An entry that came with others may lie in the key of
// the first of them.
func (d *Driver) Place(seq uint64) (where, remedy string) {
	return "Consul key " + d.entryKey(seq) + ", or the nearest before it, is damaged", d.mend()
}

// Removal implements store.Removable.
func (d *Driver) Removal() string {
	command := "consul kv delete -recurse"
	for _, o := range [][2]string{{"datacenter", d.cfg.Datacenter}, {"namespace", d.cfg.Namespace}, {"partition", d.cfg.Partition}} {
		if o[1] != "" {
			command += " -" + o[0] + "=" + o[1]
		}
	}
	return command + " " + d.root
}

func (d *Driver) headKey() string               { return d.root + "head" }
func (d *Driver) fillingKey() string            { return d.root + "filling" }
func (d *Driver) leaderKey() string             { return d.root + "leader" }
func (d *Driver) entryKey(seq uint64) string    { return fmt.Sprintf("%slog/%020d", d.root, seq) }
func (d *Driver) chunkPrefix(seq uint64) string { return fmt.Sprintf("%schunk/%020d/", d.root, seq) }
func (d *Driver) blobKey(key string) string     { return d.root + "blob/" + key }

func (d *Driver) chunkKey(seq uint64, sum [32]byte, n int) string {
	return fmt.Sprintf("%s%s/%06d", d.chunkPrefix(seq), hex.EncodeToString(sum[:]), n)
}

// The value of an entry's key is its term (8 bytes, big endian), a form, and
//
//	inline   its bytes
//	chunked  their SHA-256 (32 bytes) and their number (8 bytes, big endian)
//	packed   this entry and those that follow it, each as its term (8 bytes, big
//	         endian), the number of its bytes (4 bytes, big endian) and its bytes
const (
	inline  = 0
	chunked = 1
	packed  = 2

	pointerBytes = 8 + 1 + 32 + 8
	packHeader   = 8 + 4
)

func encodeInline(r store.Record) []byte {
	v := binary.BigEndian.AppendUint64(make([]byte, 0, 9+len(r.Data)), r.Term)
	return append(append(v, inline), r.Data...)
}

// encodePack puts the records of one key together: Consul does as much work for a key
// of many entries as for one of a single one.
func encodePack(records []store.Record) []byte {
	if len(records) == 1 {
		return encodeInline(records[0])
	}
	v := append(binary.BigEndian.AppendUint64(nil, records[0].Term), packed)
	for _, r := range records {
		v = binary.BigEndian.AppendUint64(v, r.Term)
		v = binary.BigEndian.AppendUint32(v, uint32(len(r.Data)))
		v = append(v, r.Data...)
	}
	return v
}

// decodePack gives the records of a packed value behind its form, from seq on.
func decodePack(seq uint64, v []byte) (out []store.Record, ok bool) {
	for ; len(v) > 0; seq++ {
		if len(v) < packHeader || len(out) == packEntries {
			return nil, false
		}
		term, size := binary.BigEndian.Uint64(v), binary.BigEndian.Uint32(v[8:])
		if v = v[packHeader:]; uint64(size) > uint64(len(v)) {
			return nil, false
		}
		out = append(out, store.Record{Position: store.Position{Seq: seq, Term: term}, Data: v[:size:size]})
		v = v[size:]
	}
	return out, len(out) > 1
}

func encodePointer(term uint64, sum [32]byte, size int) []byte {
	v := binary.BigEndian.AppendUint64(make([]byte, 0, pointerBytes), term)
	return binary.BigEndian.AppendUint64(append(append(v, chunked), sum[:]...), uint64(size))
}

// pointer names the chunks of an entry.
type pointer struct {
	sum  [32]byte
	size int
}

// decodeEntry gives the records of a key, or the one whose bytes are in chunks.
func decodeEntry(seq uint64, kv *api.KVPair) ([]store.Record, *pointer, error) {
	damaged := fault.New(fault.CodeCorrupt, "Consul key %s is damaged: it is not an entry of the log", kv.Key)
	v := kv.Value
	if len(v) < 9 {
		return nil, nil, damaged
	}
	r := store.Record{Position: store.Position{Seq: seq, Term: binary.BigEndian.Uint64(v)}}
	switch {
	case v[8] == inline:
		r.Data = v[9:]
		return []store.Record{r}, nil, nil
	case v[8] == packed:
		if records, ok := decodePack(seq, v[9:]); ok && records[0].Term == r.Term {
			return records, nil, nil
		}
	case v[8] == chunked && len(v) == pointerBytes:
		if size := binary.BigEndian.Uint64(v[41:]); size <= recordBytes {
			return []store.Record{r}, &pointer{sum: [32]byte(v[9:41]), size: int(size)}, nil
		}
	}
	return nil, nil, damaged
}
