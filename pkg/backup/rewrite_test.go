package backup_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/pem"
	"math/big"
	"testing"

	"google.golang.org/protobuf/proto"

	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/trust"
)

func (w *world) anchorsMetadata(keyset, bundle []byte) *trustv1.Metadata {
	return &trustv1.Metadata{Keyset: keyset, CaBundle: bundle}
}

// trim drops all entries but the newest, behind a snapshot.
func (w *world) trim(t *testing.T) {
	t.Helper()
	pos := w.state.Position()
	var snapshot bytes.Buffer
	if err := w.state.WriteSnapshot(&snapshot); err != nil {
		t.Fatal(err)
	}
	if err := w.log.SaveSnapshot(t.Context(), w.tenure, pos.Seq, pos.Hash, &snapshot); err != nil {
		t.Fatal(err)
	}
	if err := w.tenure.Trim(t.Context(), pos.Seq-1); err != nil {
		t.Fatal(err)
	}
}

// rewrite changes a backup as a hub could that signs it: sums and counts are right.
func rewrite(t *testing.T, w *world, edit func(entries [][]byte, snapshot []byte) ([][]byte, []byte)) []byte {
	t.Helper()
	data := w.backup(t)
	head, rest := data[:10], data[10:]
	var header, snapshot, sealed []byte
	var entries [][]byte
	for len(rest) > 0 {
		n := int(binary.BigEndian.Uint32(rest[1:5]))
		payload := rest[5 : 5+n]
		switch rest[0] {
		case 1:
			header = payload
		case 2:
			entries = append(entries, payload)
		case 3:
			snapshot = append(snapshot, payload...)
		case 4:
			sealed = payload
		}
		rest = rest[5+n:]
	}
	entries, snapshot = edit(entries, snapshot)
	var out bytes.Buffer
	put := func(kind byte, payload []byte) {
		out.Write(binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(payload))))
		out.Write(payload)
	}
	out.Write(head)
	put(1, header)
	for _, e := range entries {
		put(2, e)
	}
	put(3, snapshot)
	env, b := &trustv1.Envelope{}, &trustv1.Backup{}
	if err := proto.Unmarshal(sealed, env); err != nil {
		t.Fatal(err)
	}
	if err := proto.Unmarshal(env.Payload, b); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(out.Bytes())
	b.Sha256, b.Bytes, b.Entries, b.SnapshotBytes = sum[:], uint64(out.Len()), uint64(len(entries)), uint64(len(snapshot))
	put(4, must(proto.Marshal(must(trust.SignBackup(context.Background(), w.config, b))(t)))(t))
	return out.Bytes()
}

// caBundle gives a root certificate.
func caBundle(t testing.TB, name string) []byte {
	t.Helper()
	k := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32))
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: noon, NotAfter: noon.AddDate(10, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der := must(x509.CreateCertificate(nil, c, c, k.Public(), k))(t)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
