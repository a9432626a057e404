package main

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"context"

	"github.com/meshkit/meshkit/pkg/ca"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub/hubdir"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/mtls"
	"github.com/meshkit/meshkit/pkg/resource/strictyaml"
	"github.com/meshkit/meshkit/pkg/sign"
	"github.com/meshkit/meshkit/plugins/builtin"
)

// config is meshhub.yaml. Relative paths are relative to the file's directory.
type config struct {
	Domain    string     `json:"domain" required:"true" doc:"Trust domain, like eu-west."`
	Name      string     `json:"name" required:"true" doc:"Name of this hub, unique in the domain."`
	Listen    string     `json:"listen" doc:"Address of the gRPC port, host:port; port 0 takes a free one."`
	Advertise string     `json:"advertise,omitempty" doc:"Address at which agents and operators reach this hub; default: where it listens."`
	Metrics   string     `json:"metrics,omitempty" doc:"Address of /metrics, /healthz and /readyz; empty: not served."`
	Store     storeConf  `json:"store,omitempty" doc:"Where the log is."`
	Keys      keysConf   `json:"keys,omitempty" doc:"Where private keys are."`
	CA        caConf     `json:"ca,omitempty" doc:"The certificate authority."`
	TLS       tlsConf    `json:"tls,omitempty" doc:"The hub's own certificate."`
	Log       logConf    `json:"log,omitempty" doc:"Logging."`
	Tracing   traceConf  `json:"tracing,omitempty" doc:"OpenTelemetry traces."`
	Snapshots snapConf   `json:"snapshots,omitempty" doc:"When the state is saved and the log trimmed."`
	Agents    agentsConf `json:"agents,omitempty" doc:"Limits on agents."`
}

type storeConf struct {
	Driver   string `json:"driver,omitempty" doc:"Store driver, bolt or consul."`
	Path     string `json:"path,omitempty" doc:"File of the bolt store."`
	Position string `json:"position,omitempty" doc:"File in which this hub keeps how far it has followed a shared log, so that a store that was put back is noticed."`
	URL      string `json:"url,omitempty" doc:"Where Consul is, like consul://127.0.0.1:8501/meshkit?dc=dc1&token-file=/etc/meshkit/consul.token."`
}

type keysConf struct {
	Driver         string `json:"driver,omitempty" doc:"Signer driver; file is built in."`
	Dir            string `json:"dir,omitempty" doc:"Directory of config.key and keyset.key."`
	PassphraseFile string `json:"passphraseFile,omitempty" doc:"File with the passphrase that seals the keys."`
}

type caConf struct {
	Driver string `json:"driver,omitempty" doc:"CA driver; cfssl is built in."`
	Dir    string `json:"dir,omitempty" doc:"Directory of root.pem, intermediate.pem and intermediate.key."`
}

type tlsConf struct {
	Certificate string        `json:"certificate,omitempty" doc:"Certificate chain, PEM."`
	Key         string        `json:"key,omitempty" doc:"Private key, PEM."`
	Grace       time.Duration `json:"grace,omitempty" doc:"How long after its expiry a node's certificate is still accepted, so that a fleet can renew after an outage; 0s: not at all."`
}

type logConf struct {
	Format string `json:"format,omitempty" enum:"text,json" doc:"Format of log lines."`
	Level  string `json:"level,omitempty" enum:"debug,info,warn,error" doc:"Lowest level that is logged."`
}

type traceConf struct {
	Endpoint string `json:"endpoint,omitempty" doc:"OTLP gRPC endpoint as a URL; empty: no traces are exported."`
}

type snapConf struct {
	Entries int   `json:"entries,omitempty" min:"1" doc:"Save a snapshot after this many entries."`
	Bytes   int64 `json:"bytes,omitempty" min:"1" doc:"Save a snapshot after this many bytes of entries."`
}

type agentsConf struct {
	MaxStreams     int     `json:"maxStreams,omitempty" min:"1" doc:"Streams open at once."`
	AdmissionRate  float64 `json:"admissionRate,omitempty" min:"0.1" doc:"Streams admitted per second."`
	AdmissionBurst int     `json:"admissionBurst,omitempty" min:"1" doc:"Streams admitted at once."`
}

func defaultConfig() config {
	return config{
		Listen:    "127.0.0.1:8443",
		Metrics:   "127.0.0.1:9443",
		Store:     storeConf{Driver: "bolt", Path: "store.db", Position: "log.position"},
		Keys:      keysConf{Driver: "file", Dir: "keys"},
		CA:        caConf{Driver: "cfssl", Dir: "ca"},
		TLS:       tlsConf{Certificate: "tls/hub.pem", Key: "tls/hub.key", Grace: 72 * time.Hour},
		Log:       logConf{Format: "text", Level: "info"},
		Snapshots: snapConf{Entries: 10_000, Bytes: 64 << 20},
	}
}

// loadConfig reads meshhub.yaml and makes its paths absolute.
func loadConfig(path string) (config, error) {
	c := defaultConfig()
	data, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		return c, fault.New(fault.CodeInitIncomplete, "no configuration at %s", path).
			WithRemedy("%s", hubdir.Remedy(filepath.Dir(path)))
	}
	if err != nil {
		return c, fault.New(fault.CodeIO, "read configuration: %w", err)
	}
	if err := strictyaml.Unmarshal(path, data, &c); err != nil {
		return c, err
	}
	base, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return c, fault.New(fault.CodeIO, "find the configuration's directory: %w", err)
	}
	if c.Store.URL != "" {
		if _, c.Store.URL, err = builtin.StoreDriver(c.Store.URL, base); err != nil {
			return c, fmt.Errorf("%s: store.url: %w", path, err)
		}
	}
	for _, p := range []*string{&c.Store.Path, &c.Store.Position, &c.Keys.Dir, &c.Keys.PassphraseFile, &c.CA.Dir, &c.TLS.Certificate, &c.TLS.Key} {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(base, *p)
		}
	}
	return c, c.validate(path)
}

// configText writes the settings of a new hub; all others have defaults.
func configText(domain, name, listen, advertise, metrics, driver, url, passphraseFile string) ([]byte, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "# Configuration of hub %s of domain %s. Paths are relative to this file.\n", name, domain)
	fmt.Fprintf(&b, "domain: %q\nname: %q\nlisten: %q\n", domain, name, listen)
	if advertise != "" && advertise != listen {
		fmt.Fprintf(&b, "advertise: %q\n", advertise)
	}
	where := "path: store.db"
	if url != "" {
		where = fmt.Sprintf("url: %q", url)
	}
	fmt.Fprintf(&b, "metrics: %q\nstore:\n  driver: %s\n  %s\nkeys:\n  driver: file\n  dir: keys\n", metrics, driver, where)
	if passphraseFile != "" {
		path, err := filepath.Abs(passphraseFile)
		if err != nil {
			return nil, fault.New(fault.CodeIO, "find %s: %w", passphraseFile, err)
		}
		fmt.Fprintf(&b, "  passphraseFile: %q\n", path)
	}
	b.WriteString("ca:\n  driver: cfssl\n  dir: ca\ntls:\n  certificate: tls/hub.pem\n  key: tls/hub.key\nlog:\n  format: text\n  level: info\n")
	return []byte(b.String()), nil
}

func (c config) validate(path string) error {
	if err := identity.ValidDomain(c.Domain); err != nil {
		return fault.New(fault.CodeConfig, "%s: domain: %w", path, err)
	}
	if err := identity.ValidName(c.Name); err != nil {
		return fault.New(fault.CodeConfig, "%s: name: %w", path, err)
	}
	if c.TLS.Grace < 0 {
		return fault.New(fault.CodeConfig, "%s: tls.grace: %s is negative", path, c.TLS.Grace)
	}
	if (c.Store.URL != "") != (c.Store.Driver == "consul") {
		return fault.New(fault.CodeConfig, "%s: store.url goes with driver consul, and only with it", path)
	}
	for field, addr := range map[string]string{"listen": c.Listen, "advertise": c.Advertise, "metrics": c.Metrics} {
		if err := validAddress(addr); err != nil && (field == "listen" || addr != "") {
			return fault.New(fault.CodeConfig, "%s: %s: %w", path, field, err)
		}
	}
	return nil
}

func validAddress(addr string) error {
	_, port, err := net.SplitHostPort(addr)
	if err == nil {
		_, err = net.LookupPort("tcp", port)
	}
	if err != nil {
		return fault.New(fault.CodeConfig, "%q is not host:port", addr)
	}
	return nil
}

// advertised is the address that agents and other hubs are told; empty: the one that the
// listener gets. A name stays a name: what it stands for may change.
func (c config) advertised() string {
	if _, port, err := net.SplitHostPort(c.Listen); c.Advertise != "" || err != nil || port == "0" || checkAdvertised(c.Listen) != nil {
		return c.Advertise
	}
	return c.Listen
}

// checkAdvertised tells whether others can use an address that a hub is advertised at,
// or what flags are missing.
func checkAdvertised(addr string) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		return fault.New(fault.CodeConfig, "%s is every address of this machine, and agents and other hubs need one that they reach", addr).
			WithRemedy("Name it with --advertise HOST:PORT.")
	}
	return nil
}

// place says where the log is, as far as all hubs of a ring name it alike: each may
// reach it at an address of its own, and leave to its agent what another one spells out.
func (s storeConf) place() string {
	u, err := url.Parse(s.URL)
	if s.URL == "" || err != nil {
		return ""
	}
	return u.Scheme + ":" + strings.Trim(u.Path, "/")
}

// positionFile is where the hub keeps how far it has followed the log. An embedded
// store needs none: it lies beside that file and is restored with it, by the hub's
// own operator.
func (c config) positionFile() string {
	if c.Store.URL == "" {
		return ""
	}
	return c.Store.Position
}

func (c config) tlsFiles() mtls.Files {
	return mtls.Files{Cert: c.TLS.Certificate, Key: c.TLS.Key, CA: filepath.Join(c.CA.Dir, "root.pem")}
}

// keys opens the driver of the hub's keys.
func (c config) keys() (sign.Driver, error) {
	passphrase, err := readPassphrase(c.Keys.PassphraseFile)
	if err != nil {
		return nil, err
	}
	return builtin.Signer(c.Keys.Driver, c.Keys.Dir, passphrase)
}

// hubCA opens the CA that makes issuing CAs for hubs that join. The driver is nil
// when its key is not here, the chain when not even its certificate is.
func (c config) hubCA(ctx context.Context, log *slog.Logger) (driver ca.Driver, chain [][]byte, err error) {
	path := filepath.Join(c.CA.Dir, hubdir.HubCA+".pem")
	if _, err := os.Stat(path); os.IsNotExist(err) {
		return nil, nil, nil
	}
	cert, err := readCertificate(path)
	if err != nil {
		return nil, nil, err
	}
	chain = [][]byte{cert.Raw}
	key, err := c.caKey(ctx, hubdir.HubCA)
	if fault.CodeOf(err) == fault.CodeKeyNotFound {
		return nil, chain, nil
	}
	if err != nil {
		return nil, nil, err
	}
	driver, err = builtin.CA(c.CA.Driver, cert, key, log)
	return driver, chain, err
}

func (c config) caKey(ctx context.Context, name string) (crypto.Signer, error) {
	passphrase, err := readPassphrase(c.Keys.PassphraseFile)
	if err != nil {
		return nil, err
	}
	keys, err := builtin.Signer("file", c.CA.Dir, passphrase)
	if err != nil {
		return nil, err
	}
	return keys.Open(ctx, name)
}

// authority opens the CA that issues nodes' certificates; above is what may stand
// between it and the root.
func (c config) authority(ctx context.Context, above [][]byte, log *slog.Logger) (*ca.Authority, error) {
	bundle, err := os.ReadFile(filepath.Join(c.CA.Dir, "root.pem"))
	if err != nil {
		return nil, fault.New(fault.CodeIO, "read the CA bundle: %w", err)
	}
	issuer, err := readCertificate(filepath.Join(c.CA.Dir, "intermediate.pem"))
	if err != nil {
		return nil, err
	}
	key, err := c.caKey(ctx, "intermediate")
	if err != nil {
		return nil, err
	}
	driver, err := builtin.CA(c.CA.Driver, issuer, key, log)
	if err != nil {
		return nil, err
	}
	return ca.New(c.Domain, driver, bundle, ca.Options{Intermediates: above})
}

func readCertificate(path string) (*x509.Certificate, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fault.New(fault.CodeIO, "read certificate: %w", err)
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fault.New(fault.CodeConfig, "%s holds no PEM certificate", path)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fault.New(fault.CodeConfig, "%s: %w", path, err)
	}
	return cert, nil
}

// readPassphrase reads a passphrase file, without a final newline; no path, no
// passphrase.
func readPassphrase(path string) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fault.New(fault.CodeIO, "read the passphrase: %w", err)
	}
	for len(data) > 0 && (data[len(data)-1] == '\n' || data[len(data)-1] == '\r') {
		data = data[:len(data)-1]
	}
	if len(data) == 0 {
		return nil, fault.New(fault.CodeConfig, "%s holds no passphrase", path)
	}
	return data, nil
}
