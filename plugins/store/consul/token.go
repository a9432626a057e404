package consul

import (
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/meshkit/meshkit/pkg/durable"
	"github.com/meshkit/meshkit/pkg/fault"
)

// tokenBytes bounds a token file.
const tokenBytes = 4 << 10

// readToken reads a token file. With a token and an error the token can be used, but
// others than the owner can read it as well, or write it.
func readToken(path string) (string, error) {
	bad := func(format string, args ...any) *fault.Error {
		return fault.New(fault.CodeConfig, "token-file %s: "+format, append([]any{path}, args...)...).
			WithRemedy("Put an ACL token with the policy of docs/runbooks/consul.md into %s, or name another file with token-file in store.url.", path)
	}
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return "", bad("%w", reason(err))
	case info.IsDir():
		return "", bad("it is a directory")
	case !info.Mode().IsRegular():
		return "", bad("it is not a regular file")
	}
	data, err := durable.ReadFile(durable.OS, path, tokenBytes)
	if err != nil {
		return "", bad("%w", reason(err))
	}
	token := strings.TrimSpace(string(data))
	if token == "" {
		return "", bad("it is empty")
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		return token, bad("its mode is %04o: others than its owner can use the token", info.Mode().Perm()).
			WithRemedy("chmod 600 %s; if others use this machine, make another token.", path)
	}
	return token, nil
}

// reason is an error about a file whose path has been said.
func reason(err error) error {
	if e, ok := err.(*fs.PathError); ok {
		return e.Err
	}
	return err
}

// currentToken reads TokenFile again; while it gives none, the last one counts.
func (d *Driver) currentToken() string {
	if d.cfg.TokenFile == "" {
		return d.cfg.Token
	}
	token, err := readToken(d.cfg.TokenFile)
	d.mu.Lock()
	defer d.mu.Unlock()
	if token != "" {
		d.token = token
	}
	switch {
	case err != nil && d.tokenFailed == nil:
		d.cfg.Logger.Error("ACL token not read as it should be; going on with the last one", "file", filepath.Clean(d.cfg.TokenFile), "err", err)
	case err == nil && d.tokenFailed != nil:
		d.cfg.Logger.Info("ACL token read again", "file", filepath.Clean(d.cfg.TokenFile))
	}
	d.tokenFailed = err
	return d.token
}

// tokenProblem tells what was wrong with the token file when it was read last, or nil.
func (d *Driver) tokenProblem() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.tokenFailed
}
