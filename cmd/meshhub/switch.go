package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/meshkit/meshkit/pkg/durable"
	"github.com/meshkit/meshkit/pkg/fault"
)

// switchStore writes the store into meshhub.yaml, and leaves all else as it is.
func switchStore(path string, to target) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fault.New(fault.CodeIO, "read configuration: %w", err)
	}
	before, err := loadConfig(path)
	if err != nil {
		return err
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return fault.New(fault.CodeIO, "find the configuration's directory: %w", err)
	}
	section := storeSection(to, before, dir)
	text := withStore(string(data), section)
	// What was written must be read as it is meant, and nothing else may differ.
	probe := path + ".probe"
	if err := durable.WriteFile(durable.OS, probe, []byte(text), 0o600); err != nil {
		return fault.New(fault.CodeIO, "write %s: %w", probe, err)
	}
	defer os.Remove(probe)
	after, err := loadConfig(probe)
	if err != nil {
		return err
	}
	want := before
	want.Store.Driver, want.Store.URL = to.driver, to.url
	if after != want {
		return fault.New(fault.CodeConfig, "%s is written in a way that cannot be changed safely", path).
			WithRemedy("Write this into it by hand:\n%s", section)
	}
	if err := durable.WriteFile(durable.OS, path, []byte(text), 0o600); err != nil {
		return fault.New(fault.CodeIO, "write %s: %w", path, err)
	}
	return nil
}

// storeSection is the store section of a configuration in dir.
func storeSection(to target, c config, dir string) string {
	short := func(p string) string {
		if rel, err := filepath.Rel(dir, p); err == nil && filepath.IsLocal(rel) {
			return rel
		}
		return p
	}
	usual := defaultConfig().Store
	section := "store:\n  driver: " + to.driver + "\n"
	if to.url != "" {
		section += fmt.Sprintf("  url: %q\n", to.url)
	}
	if p := short(c.Store.Path); to.url == "" || p != usual.Path {
		section += fmt.Sprintf("  path: %q\n", p)
	}
	if p := short(c.Store.Position); p != usual.Position {
		section += fmt.Sprintf("  position: %q\n", p)
	}
	return section
}

// withStore replaces the store section of a configuration, or adds one.
func withStore(text, section string) string {
	var out strings.Builder
	inside, done := false, false
	for line := range strings.Lines(text) {
		if inside = inside && (strings.TrimSpace(line) == "" || strings.HasPrefix(line, " ") || strings.HasPrefix(line, "\t")); inside {
			continue
		}
		if strings.HasPrefix(line, "store:") {
			out.WriteString(section)
			inside, done = true, true
			continue
		}
		out.WriteString(line)
	}
	if !done {
		out.WriteString("\n" + section)
	}
	return out.String()
}
