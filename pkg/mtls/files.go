package mtls

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"runtime"

	"github.com/meshkit/meshkit/pkg/durable"
	"github.com/meshkit/meshkit/pkg/fault"
)

// Files are the paths of a Source's parts, all PEM: the chain (leaf first), its
// key (PKCS#8, mode 0600) and the CA bundle.
type Files struct {
	Cert, Key, CA string
}

// nextKey is where a new key waits for its certificate.
func (f Files) nextKey() string { return f.Key + ".next" }

const maxFile = 1 << 20

// SaveFiles writes the present certificate, key and bundle. Certificate and key
// are two files, so the order is one in which every crash point leaves a pair
// that LoadFiles finds:
//
//	write CA            old pair
//	write KEY.next      old pair
//	write CERT          new pair: CERT and KEY.next
//	rename KEY.next     new pair: CERT and KEY
func (s *Source) SaveFiles(f Files) error { return s.saveFiles(durable.OS, f) }

func (s *Source) saveFiles(fsys durable.FS, f Files) error {
	m := s.cur.Load()
	key, err := x509.MarshalPKCS8PrivateKey(m.cert.PrivateKey)
	if err != nil {
		return fault.New(fault.CodeKeyInvalid, "encode private key of %s: %w", m.id, err)
	}
	var chain []byte
	for _, der := range m.cert.Certificate {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	if err := durable.WriteFile(fsys, f.CA, m.bundle, 0o644); err != nil {
		return fault.New(fault.CodeIO, "save CA bundle: %w", err)
	}
	if err := durable.WriteFile(fsys, f.nextKey(), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), 0o600); err != nil {
		return fault.New(fault.CodeIO, "save private key: %w", err)
	}
	if err := durable.WriteFile(fsys, f.Cert, chain, 0o644); err != nil {
		return fault.New(fault.CodeIO, "save certificate: %w", err)
	}
	if err := durable.Rename(fsys, f.nextKey(), f.Key); err != nil {
		return fault.New(fault.CodeIO, "save private key: %w", err)
	}
	return nil
}

// LoadFiles reads what SaveFiles wrote, also after a crash in the middle. A key
// file that others than its owner can use is refused: fault.CodeKeyExposed.
func LoadFiles(f Files) (*Source, error) {
	certText, err := read(f.Cert)
	if err != nil {
		return nil, err
	}
	certs, err := parseCertificates(certText)
	if err != nil {
		return nil, err
	}
	if len(certs) == 0 {
		return nil, fault.New(fault.CodeCertificateInvalid, "certificate file %s holds no certificate", f.Cert)
	}
	bundle, err := read(f.CA)
	if err != nil {
		return nil, err
	}
	key, err := loadKey(f, certs[0])
	if err != nil {
		return nil, err
	}
	cert := tls.Certificate{PrivateKey: key}
	for _, c := range certs {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	return NewSource(cert, bundle)
}

// loadKey takes the key that belongs to leaf: KEY, or KEY.next if a crash came
// between writing the certificate and renaming the key.
func loadKey(f Files, leaf *x509.Certificate) (crypto.Signer, error) {
	key, err := ReadKey(f.Key)
	if err != nil && fault.CodeOf(err) != fault.CodeKeyNotFound {
		return nil, err
	}
	if err == nil && belongs(key, leaf) {
		return key, nil
	}
	next, nextErr := ReadKey(f.nextKey())
	if nextErr == nil && belongs(next, leaf) {
		if err := durable.Rename(durable.OS, f.nextKey(), f.Key); err != nil {
			return nil, fault.New(fault.CodeIO, "finish saving private key: %w", err)
		}
		return next, nil
	}
	if err != nil {
		return nil, err
	}
	return nil, fault.New(fault.CodeKeyInvalid, "private key %s does not belong to certificate %s", f.Key, f.Cert)
}

func belongs(key crypto.Signer, leaf *x509.Certificate) bool {
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(leaf.PublicKey)
}

// ReadKey reads a private key file, which nobody but its owner can use.
func ReadKey(path string) (crypto.Signer, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.CodeKeyNotFound, "no private key file %s", path)
	}
	if err != nil {
		return nil, fault.New(fault.CodeIO, "examine private key file: %w", err)
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		return nil, fault.New(fault.CodeKeyExposed, "private key file %s has mode %04o: others than its owner can use it", path, info.Mode().Perm()).
			WithRemedy("chmod 600 %s; if others use this machine, get a new certificate", path)
	}
	text, err := read(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, fault.New(fault.CodeKeyInvalid, "private key file %s holds no PEM block of type PRIVATE KEY", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	key, ok := parsed.(crypto.Signer)
	if err != nil || !ok {
		return nil, fault.New(fault.CodeKeyInvalid, "private key file %s holds no PKCS#8 key that can sign", path)
	}
	return key, nil
}

func read(path string) ([]byte, error) {
	data, err := durable.ReadFile(durable.OS, path, maxFile)
	if err != nil {
		return nil, fault.New(fault.CodeIO, "read credentials: %w", err)
	}
	return data, nil
}
