package cliutil

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/meshkit/meshkit/pkg/durable"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/resource"
	"github.com/meshkit/meshkit/pkg/resource/strictyaml"
)

// Context names a hub and the credentials to use there.
type Context struct {
	Name string `json:"name"`
	// Hub is host:port, or several of hubs of one domain, separated by commas.
	Hub      string `json:"hub"`
	Domain   string `json:"domain,omitempty"`
	CAFile   string `json:"caFile"`
	CertFile string `json:"certFile"`
	KeyFile  string `json:"keyFile"`
}

// Contexts is a context file. It looks like this; paths are relative to the
// file's directory:
//
//	currentContext: eu-west
//	contexts:
//	- name: eu-west
//	  hub: 127.0.0.1:8443
//	  domain: eu-west
//	  caFile: ca.pem
//	  certFile: admin.pem
//	  keyFile: admin.key
type Contexts struct {
	CurrentContext string    `json:"currentContext"`
	Contexts       []Context `json:"contexts"`
	path           string
}

// ContextPath is where the context file is: $MESHKIT_CONFIG, else
// meshkit/config.yaml in the user's configuration directory ($XDG_CONFIG_HOME,
// else what the platform uses).
func ContextPath(env func(string) string) string {
	if p := env("MESHKIT_CONFIG"); p != "" {
		return p
	}
	dir := env("XDG_CONFIG_HOME")
	if dir == "" {
		var err error
		if dir, err = os.UserConfigDir(); err != nil {
			dir = "."
		}
	}
	return filepath.Join(dir, "meshkit", "config.yaml")
}

// LoadContexts reads a context file; one that does not exist is empty. Paths in
// the result are absolute or relative to the working directory.
func LoadContexts(path string) (*Contexts, error) {
	c := &Contexts{path: path}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return nil, fault.New(fault.CodeContextFile, "read contexts: %w", err)
	}
	if err := strictyaml.Unmarshal(path, data, c); err != nil {
		return nil, fault.New(fault.CodeContextFile, "contexts in %s: %w", path, err)
	}
	seen := make(map[string]bool)
	for i := range c.Contexts {
		ctx := &c.Contexts[i]
		if ctx.Name == "" || resource.NameProblem(ctx.Name) != "" {
			return nil, fault.New(fault.CodeContextFile, "contexts in %s: contexts[%d].name %q is not a name", path, i, ctx.Name)
		}
		if seen[ctx.Name] {
			return nil, fault.New(fault.CodeContextFile, "contexts in %s: two contexts are named %q", path, ctx.Name)
		}
		seen[ctx.Name] = true
		for _, file := range []*string{&ctx.CAFile, &ctx.CertFile, &ctx.KeyFile} {
			if *file != "" && !filepath.IsAbs(*file) {
				*file = filepath.Join(filepath.Dir(path), *file)
			}
		}
	}
	return c, nil
}

// Path is the file that Save writes.
func (c *Contexts) Path() string { return c.path }

// Choose gives the named context, or the current one for "".
func (c *Contexts) Choose(name string) (Context, error) {
	if name == "" {
		name = c.CurrentContext
	}
	if name == "" {
		return Context{}, fault.New(fault.CodeNoContext, "no hub chosen: %s has no current context", c.path)
	}
	i := c.index(name)
	if i < 0 {
		err := fault.New(fault.CodeContextMissing, "no context %q in %s", name, c.path)
		if near, ok := resource.FindField(name, c.Names()); ok {
			err = err.WithRemedy("did you mean %q? `meshctl context list` shows those there are", near)
		}
		return Context{}, err
	}
	return c.Contexts[i], nil
}

// Names lists the contexts.
func (c *Contexts) Names() []string {
	names := make([]string, len(c.Contexts))
	for i, ctx := range c.Contexts {
		names[i] = ctx.Name
	}
	return names
}

func (c *Contexts) index(name string) int {
	return slices.IndexFunc(c.Contexts, func(x Context) bool { return x.Name == name })
}

// Put adds a context or replaces the one of that name.
func (c *Contexts) Put(ctx Context) {
	if i := c.index(ctx.Name); i >= 0 {
		c.Contexts[i] = ctx
		return
	}
	c.Contexts = append(c.Contexts, ctx)
}

// Remove takes a context out; it tells whether there was one.
func (c *Contexts) Remove(name string) bool {
	i := c.index(name)
	if i < 0 {
		return false
	}
	c.Contexts = slices.Delete(c.Contexts, i, i+1)
	if c.CurrentContext == name {
		c.CurrentContext = ""
	}
	return true
}

// Save writes the file, mode 0600, whole or not at all. File paths are written
// as absolute ones.
func (c *Contexts) Save() error {
	out := *c
	out.Contexts = slices.Clone(c.Contexts)
	for i := range out.Contexts {
		for _, file := range []*string{&out.Contexts[i].CAFile, &out.Contexts[i].CertFile, &out.Contexts[i].KeyFile} {
			abs, err := filepath.Abs(*file)
			if err != nil {
				return fmt.Errorf("locate %s: %w", *file, err)
			}
			*file = abs
		}
	}
	doc, err := json.Marshal(out)
	if err != nil {
		return fmt.Errorf("encode contexts: %w", err)
	}
	text, err := YAML(doc)
	if err != nil {
		return fmt.Errorf("encode contexts: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(c.path), 0o700); err != nil {
		return fault.New(fault.CodeContextFile, "make the directory of the context file: %w", err)
	}
	if err := durable.WriteFile(durable.OS, c.path, text, 0o600); err != nil {
		return fault.New(fault.CodeContextFile, "write contexts: %w", err)
	}
	return nil
}
