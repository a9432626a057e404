// Package version tells which build this is. The release build sets the
// variables with -ldflags; otherwise they come from the Go build info.
package version

import (
	"runtime"
	"runtime/debug"
)

// Set by -ldflags "-X …" in release builds.
var (
	version = ""
	commit  = ""
)

// Version is the semantic version, "dev" outside a release.
func Version() string {
	if version != "" {
		return version
	}
	if bi, ok := debug.ReadBuildInfo(); ok && bi.Main.Version != "" && bi.Main.Version != "(devel)" {
		return bi.Main.Version
	}
	return "dev"
}

// Commit is the source revision, "unknown" when the build did not record it.
func Commit() string {
	if commit != "" {
		return commit
	}
	if bi, ok := debug.ReadBuildInfo(); ok {
		for _, s := range bi.Settings {
			if s.Key == "vcs.revision" {
				return s.Value
			}
		}
	}
	return "unknown"
}

// String is one line for --version and for the build field on the wire, like
// "1.2.0 (3f2a91c, go1.26.7, linux/amd64)".
func String() string {
	c := Commit()
	if len(c) > 7 && c != "unknown" {
		c = c[:7]
	}
	return Version() + " (" + c + ", " + runtime.Version() + ", " + runtime.GOOS + "/" + runtime.GOARCH + ")"
}
