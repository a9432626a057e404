// Package builtin is the list of drivers that come with MeshKit: one function
// for each capability, with one line for each driver. Only programs and tests
// import it. A new driver is a package under plugins/ and a line here.
package builtin

import (
	"cmp"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/meshkit/meshkit/pkg/ca"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/sign"
	"github.com/meshkit/meshkit/pkg/store"
	"github.com/meshkit/meshkit/plugins/ca/cfssl"
	"github.com/meshkit/meshkit/plugins/signer/file"
	"github.com/meshkit/meshkit/plugins/store/bolt"
	"github.com/meshkit/meshkit/plugins/store/consul"
)

// StoreOptions say where a store is. Which fields count depends on the driver.
type StoreOptions struct {
	// Path of the file, for bolt.
	Path string
	// URL of the store, for consul.
	URL string
	// Create permits making a store that does not exist.
	Create bool
	// Logger is told what a driver notices by itself; nil: nobody is.
	Logger *slog.Logger
	Log    store.Options
}

var stores = map[string]func(domain string, opt StoreOptions) (store.Driver, error){
	"bolt":   boltStore,
	"consul": consulStore,
}

// Stores lists the store drivers by name.
func Stores() []string {
	var names []string
	for name := range stores {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// StoreDriver gives the driver that a --store value names, which is "bolt" or a
// URL, and the URL with the paths in it made absolute against dir.
func StoreDriver(value, dir string) (driver, url string, err error) {
	scheme, _, isURL := strings.Cut(value, "://")
	switch {
	case value == "bolt":
		return "bolt", "", nil
	case isURL && scheme == "consul":
		url, err = consul.Absolute(value, dir)
		return "consul", url, err
	}
	return "", "", fault.New(fault.CodeConfig, "store %q is neither bolt nor a consul:// URL", value)
}

// StoreKeys gives the path under which a domain's keys lie in the store of a URL, with
// a slash at its end.
func StoreKeys(url, domain string) (string, error) {
	c, err := consul.ParseURL(url)
	if err != nil {
		return "", err
	}
	c.Domain = domain
	return c.Root(), nil
}

// OpenLog opens a domain's log in the store that the named driver reaches.
// Closing the log closes all that was opened for it.
func OpenLog(ctx context.Context, driver, domain string, opt StoreOptions) (*store.Log, error) {
	d, err := openDriver(driver, domain, opt)
	if err != nil {
		return nil, err
	}
	l, err := store.Open(ctx, d, opt.Log)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("store %s: %w", cmp.Or(opt.URL, opt.Path), err), d.Close())
	}
	return l, nil
}

// RestoreLog prepares to fill a domain's log from a backup, in a store that the named
// driver reaches. Closing it closes all that was opened for it.
func RestoreLog(driver, domain string, opt StoreOptions) (*store.Restoration, error) {
	d, err := openDriver(driver, domain, opt)
	if err != nil {
		return nil, err
	}
	r, err := store.NewRestoration(d, opt.Log)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("store %s: %w", cmp.Or(opt.URL, opt.Path), err), d.Close())
	}
	return r, nil
}

func openDriver(driver, domain string, opt StoreOptions) (store.Driver, error) {
	open, ok := stores[driver]
	if !ok {
		return nil, fault.New(fault.CodeConfig, "store driver %q is none of %s", driver, strings.Join(Stores(), ", "))
	}
	return open(domain, opt)
}

// boltDriver is a driver that owns its file.
type boltDriver struct {
	store.Driver
	store.Blobs
	store.Restorer
	file *bolt.File
}

// Close implements store.Driver.
func (d boltDriver) Close() error { return errors.Join(d.Driver.Close(), d.file.Close()) }

func boltStore(domain string, opt StoreOptions) (store.Driver, error) {
	f, err := bolt.Open(opt.Path, bolt.Options{MustExist: !opt.Create})
	if err != nil {
		return nil, err
	}
	d, err := f.Domain(domain)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	blobs, ok := d.(store.Blobs)
	restorer, also := d.(store.Restorer)
	if !ok || !also {
		return nil, errors.Join(fault.New(fault.CodeInternal, "the bolt driver keeps no snapshots, or cannot be filled"), f.Close())
	}
	return boltDriver{Driver: d, Blobs: blobs, Restorer: restorer, file: f}, nil
}

func consulStore(domain string, opt StoreOptions) (store.Driver, error) {
	conf, err := consul.ParseURL(opt.URL)
	if err != nil {
		return nil, err
	}
	conf.Domain, conf.Logger = domain, opt.Logger
	return consul.Open(conf)
}

// Signer opens the named signer driver on a directory of key files. The
// passphrase, if any, seals new keys and opens sealed ones.
func Signer(driver, dir string, passphrase []byte) (sign.Driver, error) {
	switch driver {
	case "file":
		return file.New(dir, file.Options{Passphrase: passphrase}), nil
	}
	return nil, fault.New(fault.CodeConfig, "signer driver %q is not file", driver)
}

// CA makes the named CA driver, which signs as issuer with key.
func CA(driver string, issuer *x509.Certificate, key crypto.Signer, log *slog.Logger) (ca.Driver, error) {
	switch driver {
	case "cfssl":
		return cfssl.New(issuer, key, log)
	}
	return nil, fault.New(fault.CodeConfig, "CA driver %q is not cfssl", driver)
}
