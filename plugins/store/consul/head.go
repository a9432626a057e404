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
	// recordBytes is the largest entry: its chunks are written one by one before it.
	recordBytes = 160 << 20
	// pageBytes ends a page of Read.
	pageBytes = 4 << 20
)

// head is the value of the head key: the only one that is changed in place.
type head struct {
	// Seq and Term of the newest entry.
	Seq  uint64 `json:"seq"`
	Term uint64 `json:"term"`
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
	return versioned{}, fault.New(fault.CodeCorrupt, "Consul key %s is damaged: it was not written by a hub", kv.Key)
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

// An entry's value is its term (8 bytes, big endian), a form, and
//
//	inline   its bytes
//	chunked  their SHA-256 (32 bytes) and their number (8 bytes, big endian)
const (
	inline  = 0
	chunked = 1

	pointerBytes = 8 + 1 + 32 + 8
)

func encodeInline(r store.Record) []byte {
	v := binary.BigEndian.AppendUint64(make([]byte, 0, 9+len(r.Data)), r.Term)
	return append(append(v, inline), r.Data...)
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

// decodeEntry gives a record, and where its bytes are if they are in chunks.
func decodeEntry(seq uint64, kv *api.KVPair) (store.Record, *pointer, error) {
	damaged := fault.New(fault.CodeCorrupt, "Consul key %s is damaged: it is not an entry of the log", kv.Key)
	v := kv.Value
	if len(v) < 9 {
		return store.Record{}, nil, damaged
	}
	r := store.Record{Position: store.Position{Seq: seq, Term: binary.BigEndian.Uint64(v)}}
	switch {
	case v[8] == inline:
		r.Data = v[9:]
		return r, nil, nil
	case v[8] == chunked && len(v) == pointerBytes:
		size := binary.BigEndian.Uint64(v[41:])
		if size > recordBytes {
			return store.Record{}, nil, damaged
		}
		return r, &pointer{sum: [32]byte(v[9:41]), size: int(size)}, nil
	}
	return store.Record{}, nil, damaged
}
