package store

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"testing"
	"time"

	"github.com/meshkit/meshkit/pkg/fault"
)

func sampleRecord(t testing.TB) (Entry, Record) {
	t.Helper()
	e, r, err := encodeEntry(Head{Position: Position{Seq: 6, Term: 2}, Hash: [32]byte{1}}, Position{Seq: 7, Term: 3}, Draft{
		Kind: "ChangeSet", Author: "spiffe://eu-west/operator/ann", RequestID: "r1", Origin: "127.0.0.1 meshctl",
		Time: time.Unix(1700000000, 5), Payload: []byte("payload"),
	})
	if err != nil {
		t.Fatal(err)
	}
	return e, r
}

func TestEveryFlippedBitOfARecordIsRefused(t *testing.T) {
	want, r := sampleRecord(t)
	got, err := decodeRecord(r)
	if err != nil || got.Hash != want.Hash || !bytes.Equal(got.Raw, want.Raw) || string(got.Payload) != "payload" {
		t.Fatalf("the record reads as %v, %v", got, err)
	}
	for at := range r.Data {
		for bit := range 8 {
			r.Data[at] ^= 1 << bit
			if _, err := decodeRecord(r); fault.CodeOf(err) != fault.CodeCorrupt {
				t.Fatalf("bit %d of byte %d flipped: %v", bit, at, err)
			}
			r.Data[at] ^= 1 << bit
		}
	}
	for n := range r.Data {
		if _, err := decodeRecord(Record{Position: r.Position, Data: r.Data[:n]}); fault.CodeOf(err) != fault.CodeCorrupt {
			t.Fatalf("cut to %d bytes: %v", n, err)
		}
	}
	for _, p := range []Position{{Seq: 8, Term: 3}, {Seq: 7, Term: 4}} {
		if _, err := decodeRecord(Record{Position: p, Data: r.Data}); fault.CodeOf(err) != fault.CodeChainBroken {
			t.Fatalf("found at %+v: %v", p, err)
		}
	}
}

func FuzzEntry(f *testing.F) {
	_, r := sampleRecord(f)
	f.Add(r.Data, uint64(7), uint64(3))
	f.Add(r.Data[:recordHeader], uint64(0), uint64(0))
	f.Fuzz(func(t *testing.T, data []byte, seq, term uint64) {
		rec := Record{Position: Position{Seq: seq, Term: term}, Data: bytes.Clone(data)}
		if e, err := decodeRecord(rec); err == nil && (e.Hash != sha256.Sum256(e.Raw) || e.Seq != seq || e.Term != term) {
			t.Fatal("a record was taken that is not what it says")
		} else if err != nil && fault.CodeOf(err) == "" {
			t.Fatalf("an error without a code: %v", err)
		}
		// Behind a fitting hash the parser itself is reached.
		if len(data) < recordHeader {
			return
		}
		sum := sha256.Sum256(data[recordHeader:])
		rec.Data[0], rec.Data[1] = recordVersion, ^byte(recordVersion)
		copy(rec.Data[2:], sum[:])
		if e, err := decodeRecord(rec); err == nil {
			if !bytes.Equal(e.Raw, data[recordHeader:]) || len(e.PreviousHash) != 32 {
				t.Fatal("the entry is not made of the stored bytes")
			}
		} else if fault.CodeOf(err) == "" {
			t.Fatalf("an error without a code: %v", err)
		}
	})
}

func FuzzManifest(f *testing.F) {
	good, err := encodeManifest(manifest{Format: 1, Seq: 5, Hash: string(bytes.Repeat([]byte("a"), 64)), Size: 3, ChunkSize: 2, Chunks: []string{"x", "y"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good[sha256.Size:])
	f.Fuzz(func(t *testing.T, body []byte) {
		sum := sha256.Sum256(body)
		m, err := decodeManifest(5, append(sum[:], body...))
		if err == nil && (m.Seq != 5 || m.ChunkSize <= 0 || m.ChunkSize > MaxBlob) {
			t.Fatalf("a manifest was taken that contradicts itself: %+v", m)
		}
		if _, err := decodeManifest(5, body); err == nil {
			t.Fatal("a manifest without its hash was taken")
		} else if !errors.Is(err, fault.CodeCorrupt) {
			t.Fatal(err)
		}
	})
}
