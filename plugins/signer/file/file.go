// Package file is a sign.Driver that keeps each private key in a file of its
// own, <dir>/<name>.key.
//
// A file holds one PEM block. Without a passphrase it is PKCS#8:
//
//	-----BEGIN PRIVATE KEY-----
//
// With one, the PKCS#8 bytes are sealed with NaCl secretbox under a key that
// scrypt derives from the passphrase (go-securesystemslib/encrypted):
//
//	-----BEGIN MESHKIT ENCRYPTED PRIVATE KEY-----
//
// Files have mode 0600 and directories 0700. A file that others can read or
// write, or that lies in a directory that others can write to, is refused: its
// key may have been copied or put there. A new key is written to a temporary
// file, synced and linked under its name, so that a crash leaves the whole key
// or none, and an existing key is never overwritten.
//
// A Driver is safe for concurrent use, also by several processes.
package file

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/secure-systems-lab/go-securesystemslib/encrypted"

	"github.com/meshkit/meshkit/pkg/durable"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/sign"
)

const (
	plainType  = "PRIVATE KEY"
	sealedType = "MESHKIT ENCRYPTED PRIVATE KEY"

	extension = ".key"
	// maxFile is far more than any key of ours takes.
	maxFile = 64 << 10
)

// Options of a driver; the zero value is useful.
type Options struct {
	// Passphrase seals new keys and opens sealed ones. Empty means that new keys
	// are not sealed, and that opening a sealed one is fault.CodeKeyPassphrase.
	Passphrase []byte
}

// Driver implements sign.Driver over one directory.
type Driver struct {
	dir        string
	passphrase []byte
}

var _ sign.Driver = (*Driver)(nil)

// New makes a driver for the keys in dir, which Create makes if it is missing.
func New(dir string, opt Options) *Driver {
	return &Driver{dir: dir, passphrase: opt.Passphrase}
}

// Create implements sign.Driver.
func (d *Driver) Create(ctx context.Context, name string, alg sign.Algorithm) (crypto.Signer, error) {
	path, err := d.path(name)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fault.New(fault.CodeCanceled, "create key %s: %w", path, context.Cause(ctx))
	}
	if err := durable.MkdirAll(durable.OS, d.dir, 0o700); err != nil {
		return nil, fault.New(fault.CodeIO, "create key directory: %w", err)
	}
	if err := checkDir(d.dir); err != nil {
		return nil, err
	}
	if _, err := os.Lstat(path); err == nil {
		return nil, fault.New(fault.CodeKeyExists, "key file %s exists", path)
	}
	key, err := sign.Generate(alg)
	if err != nil {
		return nil, err
	}
	text, err := d.encode(key)
	if err != nil {
		return nil, err
	}
	if err := writeOnce(path, text); err != nil {
		return nil, err
	}
	return key, nil
}

// Open implements sign.Driver.
func (d *Driver) Open(ctx context.Context, name string) (crypto.Signer, error) {
	path, err := d.path(name)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fault.New(fault.CodeCanceled, "open key %s: %w", path, context.Cause(ctx))
	}
	text, err := readPrivate(path)
	if err != nil {
		return nil, err
	}
	return d.decode(path, text)
}

// path keeps names to one path element of harmless characters.
func (d *Driver) path(name string) (string, error) {
	if err := identity.ValidName(name); err != nil {
		return "", fault.New(fault.CodeKeyInvalid, "key name %q: %w", name, err)
	}
	return filepath.Join(d.dir, name+extension), nil
}

func (d *Driver) encode(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fault.New(fault.CodeKeyInvalid, "encode private key: %w", err)
	}
	if len(d.passphrase) == 0 {
		return pem.EncodeToMemory(&pem.Block{Type: plainType, Bytes: der}), nil
	}
	sealed, err := encrypted.EncryptWithCustomKDFParameters(der, d.passphrase, encrypted.Standard)
	if err != nil {
		return nil, fault.New(fault.CodeKeyInvalid, "seal private key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: sealedType, Bytes: sealed}), nil
}

// decode never puts key material or a parser's words about it into an error.
func (d *Driver) decode(path string, text []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fault.New(fault.CodeKeyInvalid, "key file %s holds no PEM block", path)
	}
	der := block.Bytes
	switch block.Type {
	case plainType:
	case sealedType:
		if len(d.passphrase) == 0 {
			return nil, fault.New(fault.CodeKeyPassphrase, "key file %s is sealed and no passphrase is set", path)
		}
		var err error
		if der, err = encrypted.Decrypt(block.Bytes, d.passphrase); err != nil {
			return nil, fault.New(fault.CodeKeyPassphrase, "key file %s does not open with this passphrase, or is damaged", path)
		}
	default:
		return nil, fault.New(fault.CodeKeyInvalid, "key file %s holds a PEM block of type %.40q", path, block.Type)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fault.New(fault.CodeKeyInvalid, "key file %s holds no PKCS#8 key", path)
	}
	key, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, fault.New(fault.CodeKeyInvalid, "key file %s holds a key that cannot sign", path)
	}
	return key, nil
}

// writeOnce makes a file whole or not at all, and only if there is none.
func writeOnce(path string, data []byte) (err error) {
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*"+durable.TempSuffix)
	if err != nil {
		return fault.New(fault.CodeIO, "create key file: %w", err)
	}
	// The temporary name goes in every case; the key has its own by then.
	defer func() { err = errors.Join(err, os.Remove(tmp.Name())) }()
	if _, err = tmp.Write(data); err == nil {
		err = tmp.Sync() // CreateTemp gives mode 0600
	}
	if closed := tmp.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return fault.New(fault.CodeIO, "write key file %s: %w", path, err)
	}
	if err := os.Link(tmp.Name(), path); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return fault.New(fault.CodeKeyExists, "key file %s exists", path)
		}
		return fault.New(fault.CodeIO, "name key file %s: %w", path, err)
	}
	if err := durable.OS.SyncDir(filepath.Dir(path)); err != nil {
		return fault.New(fault.CodeIO, "sync directory of key file %s: %w", path, err)
	}
	return nil
}

// readPrivate reads a file that only its owner can read. The checks are made on
// the open file, so that it cannot be exchanged in between.
func readPrivate(path string) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.CodeKeyNotFound, "no key file %s", path)
	}
	if err != nil {
		return nil, fault.New(fault.CodeIO, "open key file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fault.New(fault.CodeIO, "examine key file: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		return nil, fault.New(fault.CodeKeyInvalid, "key file %s is not a regular file of at most %d bytes", path, maxFile)
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		return nil, fault.New(fault.CodeKeyExposed, "key file %s has mode %04o: others than its owner can use it", path, info.Mode().Perm()).
			WithRemedy("chmod 600 %s; if others use this machine, replace the key", path)
	}
	if err := checkDir(filepath.Dir(path)); err != nil {
		return nil, err
	}
	data := make([]byte, info.Size())
	n, err := f.ReadAt(data, 0)
	if err != nil && n < len(data) {
		return nil, fault.New(fault.CodeIO, "read key file: %w", err)
	}
	return data, nil
}

func checkDir(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return fault.New(fault.CodeIO, "examine key directory: %w", err)
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o022 != 0 && info.Mode()&fs.ModeSticky == 0 {
		return fault.New(fault.CodeKeyExposed, "key directory %s has mode %04o: others than its owner can put files there", dir, info.Mode().Perm()).
			WithRemedy("chmod 700 %s", dir)
	}
	return nil
}
