package agent

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/meshkit/meshkit/pkg/agent/local"
	"github.com/meshkit/meshkit/pkg/distribution"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/resource"
	"github.com/meshkit/meshkit/pkg/resource/strictyaml"
)

// ConfigName is the file in a data directory that `meshagent join` writes.
const ConfigName = "meshagent.yaml"

// maxConfigBytes bounds a configuration file.
const maxConfigBytes = 1 << 20

// Config is an agent's configuration file. Relative paths are relative to the file.
type Config struct {
	Domain string   `json:"domain" required:"true" doc:"Domain that this node belongs to."`
	Node   string   `json:"node" required:"true" doc:"Name of this node in its domain."`
	Hubs   []string `json:"hubs" required:"true" minItems:"1" maxItems:"64" doc:"Hub addresses, host:port, tried in turn."`
	// TrustPin names the first root of trust; see trust.Load.
	TrustPin string `json:"trustPin" required:"true" doc:"SHA-256 of the root of trust that was pinned at join."`

	Data    string `json:"data,omitempty" default:"." doc:"Directory of identity, trust and last-known-good."`
	Socket  string `json:"socket,omitempty" default:"agent.sock" doc:"Unix socket for local processes and for meshagent's own commands."`
	Listen  string `json:"listen,omitempty" doc:"Loopback address that re-serves configuration over mutual TLS, to processes with this node's certificate; empty: none."`
	Metrics string `json:"metrics,omitempty" doc:"Address of /metrics, /healthz and /readyz over TLS; empty: none."`

	Labels    map[string]string `json:"labels,omitempty" doc:"Labels to show on the hub beside the ones bound to the identity. Never trusted."`
	Bundle    Bundle            `json:"bundle,omitempty" doc:"For processes that cannot stream: the active content as a file, and a command to run after it changed."`
	Validate  Command           `json:"validate,omitempty" doc:"External validation, before activation. The path of the staged bundle is the last argument."`
	Probation Probation         `json:"probation,omitempty" doc:"How a new version is watched before it is kept."`
	LKG       LKG               `json:"lkg,omitempty" doc:"The last-known-good store."`
	Limits    Limits            `json:"limits,omitempty" doc:"What is accepted from a hub."`
	Log       Log               `json:"log,omitempty" doc:"Logging."`
	Tracing   Tracing           `json:"tracing,omitempty" doc:"OpenTelemetry traces."`
	Memory    Memory            `json:"memory,omitempty" doc:"Garbage collection."`
}

// Command is a program to run, with a bound on its time.
type Command struct {
	Command []string          `json:"command,omitempty" maxItems:"64" doc:"Program and arguments; no shell."`
	Timeout resource.Duration `json:"timeout,omitempty" min:"10ms" max:"10m" default:"10s" doc:"Time after which the command is killed and counts as failed."`
}

// Bundle writes the active content to a file.
type Bundle struct {
	Path    string            `json:"path,omitempty" doc:"File to write, atomically; empty: none."`
	Hook    []string          `json:"hook,omitempty" maxItems:"64" doc:"Program and arguments to run after each activation; a failure reverts it."`
	Timeout resource.Duration `json:"timeout,omitempty" min:"10ms" max:"10m" default:"10s" doc:"Time after which the hook is killed and counts as failed."`
}

// Probation overrides what DomainSettings says.
type Probation struct {
	Period        resource.Duration `json:"period,omitempty" min:"1ms" max:"1h" doc:"Time that a version must stay healthy; default: the domain's."`
	MaxRestarts   *int              `json:"maxRestarts,omitempty" min:"0" max:"1000" doc:"Bad ends in a row within the period, after which the agent starts from the generation before; 0: never; default: the domain's."`
	Health        []string          `json:"health,omitempty" maxItems:"64" doc:"Program and arguments that tell whether the data plane is healthy (exit status 0)."`
	Interval      resource.Duration `json:"interval,omitempty" min:"10ms" max:"10m" default:"2s" doc:"Time between two health checks."`
	Timeout       resource.Duration `json:"timeout,omitempty" min:"10ms" max:"10m" default:"5s" doc:"Time after which the health command is killed and counts as failed."`
	Failures      int               `json:"failures,omitempty" min:"1" max:"100" default:"2" doc:"Failed checks in a row that revert a version."`
	MaxLostClient int               `json:"maxLostClients,omitempty" min:"0" max:"1000" doc:"Streams of local processes that may break within the probation before the version is reverted; 0: any number."`
}

// LKG bounds the store.
type LKG struct {
	MaxBytes int64 `json:"maxBytes,omitempty" min:"65536" default:"536870912" doc:"Bytes that the last-known-good store may take on disk."`
}

// Limits bound what is taken from a hub.
type Limits struct {
	MaxResources   int   `json:"maxResources,omitempty" min:"1" max:"1000000" default:"50000" doc:"Resources in the node's view."`
	MaxBundleBytes int64 `json:"maxBundleBytes,omitempty" min:"1024" max:"4294967296" default:"134217728" doc:"Bytes of all resources of the node's view."`
}

// Log configures logging.
type Log struct {
	Format string `json:"format,omitempty" enum:"text,json" default:"text" doc:"Form of log lines."`
	Level  string `json:"level,omitempty" enum:"debug,info,warn,error" default:"info" doc:"Lowest level that is logged."`
}

// Tracing configures traces.
type Tracing struct {
	Endpoint string `json:"endpoint,omitempty" doc:"OTLP gRPC endpoint, like https://collector:4317; empty: none."`
}

// Memory trades processor time for memory.
type Memory struct {
	GCPercent int   `json:"gcPercent,omitempty" min:"10" max:"1000" default:"25" doc:"Growth of the heap, in percent, between two collections."`
	LimitMiB  int64 `json:"limitMiB,omitempty" min:"16" max:"1048576" doc:"Soft limit of the process's memory; 0: none."`
}

// DefaultConfig gives every setting that has a default.
func DefaultConfig() Config {
	return Config{
		Data: ".", Socket: "agent.sock",
		Bundle:    Bundle{Timeout: resource.Duration(10 * time.Second)},
		Validate:  Command{Timeout: resource.Duration(10 * time.Second)},
		Probation: Probation{Interval: resource.Duration(2 * time.Second), Timeout: resource.Duration(5 * time.Second), Failures: 2},
		LKG:       LKG{MaxBytes: 512 << 20},
		Limits:    Limits{MaxResources: 50_000, MaxBundleBytes: 128 << 20},
		Log:       Log{Format: "text", Level: "info"},
		Memory:    Memory{GCPercent: 25},
	}
}

// LoadConfig reads a configuration file, strictly. The error names file, line and
// column.
func LoadConfig(path string) (Config, error) {
	info, err := os.Stat(path)
	if err != nil {
		if os.IsNotExist(err) {
			return Config{}, fault.New(fault.CodeNotJoined, "there is no %s", path)
		}
		return Config{}, fault.New(fault.CodeIO, "read configuration: %w", err)
	}
	if info.Size() > maxConfigBytes {
		return Config{}, fault.New(fault.CodeConfig, "%s has %d bytes, more than %d", path, info.Size(), maxConfigBytes)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return Config{}, fault.New(fault.CodeIO, "read configuration: %w", err)
	}
	cfg := DefaultConfig()
	positions, err := strictyaml.Decode(path, data, &cfg)
	if err != nil {
		return Config{}, err
	}
	if field, remedy, err := cfg.check(); err != nil {
		return Config{}, strictyaml.Errorf(positions, field, remedy, "%v", err)
	}
	base, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return Config{}, fault.New(fault.CodeIO, "find directory of %s: %w", path, err)
	}
	cfg.resolve(base)
	return cfg, nil
}

// resolve makes relative paths absolute.
func (c *Config) resolve(base string) {
	for _, p := range []*string{&c.Data, &c.Socket, &c.Bundle.Path} {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(base, *p)
		}
	}
}

// check judges what the schema cannot; it names the field and the remedy.
func (c *Config) check() (field, remedy string, err error) {
	if err := identity.ValidDomain(c.Domain); err != nil {
		return "domain", "use the domain's name as `meshhub init` set it", err
	}
	if err := identity.ValidName(c.Node); err != nil {
		return "node", "use the name under which the node joined", err
	}
	for i, h := range c.Hubs {
		if _, _, err := net.SplitHostPort(h); err != nil {
			return fmt.Sprintf("hubs[%d]", i), "write host:port", err
		}
	}
	if c.Listen != "" {
		if err := local.CheckListen(c.Listen); err != nil {
			return "listen", local.ListenRemedy, err
		}
	}
	if c.Metrics != "" {
		if _, _, err := net.SplitHostPort(c.Metrics); err != nil {
			return "metrics", "write host:port", err
		}
	}
	if len(c.Bundle.Hook) > 0 && c.Bundle.Path == "" {
		return "bundle.hook", "set bundle.path as well", fmt.Errorf("a hook needs the file that it is run for")
	}
	return "", "", nil
}

// distributionLimits are the limits in the protocol's terms.
func (c *Config) distributionLimits() distribution.Limits {
	return distribution.Limits{Resources: c.Limits.MaxResources, BundleBytes: c.Limits.MaxBundleBytes}
}

// The files of a data directory.
func (c *Config) certFile() string   { return filepath.Join(c.Data, "tls", "node.pem") }
func (c *Config) keyFile() string    { return filepath.Join(c.Data, "tls", "node.key") }
func (c *Config) caFile() string     { return filepath.Join(c.Data, "tls", "ca.pem") }
func (c *Config) trustFile() string  { return filepath.Join(c.Data, "trust", "anchors") }
func (c *Config) lkgDir() string     { return filepath.Join(c.Data, "lkg") }
func (c *Config) stagingDir() string { return filepath.Join(c.Data, "staging") }
