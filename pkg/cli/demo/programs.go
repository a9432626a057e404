package demo

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/meshkit/meshkit/pkg/fault"
)

// module is the path in the go.mod of a checkout.
const module = "github.com/meshkit/meshkit"

// programs are the files to run, and how they were come by.
type programs struct {
	hub, agent string
	found      string // in words, for the narration
}

// locate finds meshhub and meshagent beside meshctl or on PATH. Inside a
// checkout, where meshctl was started with `go run`, they are built instead, so
// that all three are of one source. build is told what is being built.
func locate(ctx context.Context, sup *supervisor, build func(what string)) (programs, error) {
	exe, err := os.Executable()
	if err != nil {
		exe = ""
	}
	if p, ok := inDir(filepath.Dir(exe)); exe != "" && ok {
		p.found = "found beside meshctl"
		return p, nil
	}
	root := checkout()
	if root != "" && underGoRun(exe) {
		return compile(ctx, root, sup, build)
	}
	hub, err1 := exec.LookPath("meshhub")
	agent, err2 := exec.LookPath("meshagent")
	if err1 == nil && err2 == nil {
		return programs{hub, agent, "found on PATH"}, nil
	}
	if root != "" {
		return compile(ctx, root, sup, build)
	}
	return programs{}, fault.New(fault.CodeDemoPrograms, "%w", errors.Join(err1, err2))
}

func inDir(dir string) (programs, bool) {
	suffix := ""
	if runtime.GOOS == "windows" {
		suffix = ".exe"
	}
	p := programs{hub: filepath.Join(dir, "meshhub"+suffix), agent: filepath.Join(dir, "meshagent"+suffix)}
	for _, file := range []string{p.hub, p.agent} {
		if info, err := os.Stat(file); err != nil || info.IsDir() || info.Mode()&0o111 == 0 && suffix == "" {
			return programs{}, false
		}
	}
	return p, true
}

// underGoRun tells whether meshctl is a file that `go run` made for this once.
func underGoRun(exe string) bool { return strings.Contains(exe, "go-build") }

// checkout finds the root of the source tree that the working directory is in;
// "" when it is in none.
func checkout() string {
	dir, err := os.Getwd()
	if err != nil {
		return ""
	}
	for {
		if data, err := os.ReadFile(filepath.Join(dir, "go.mod")); err == nil && isModule(data) {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return ""
		}
		dir = parent
	}
}

func isModule(gomod []byte) bool {
	for s := bufio.NewScanner(bytes.NewReader(gomod)); s.Scan(); {
		if f := strings.Fields(s.Text()); len(f) == 2 && f[0] == "module" {
			return f[1] == module
		}
	}
	return false
}

// compile builds the programs into the demo's directory.
func compile(ctx context.Context, root string, sup *supervisor, build func(what string)) (programs, error) {
	bin := filepath.Join(sup.dir, "bin")
	if err := os.MkdirAll(bin, 0o700); err != nil {
		return programs{}, fault.New(fault.CodeIO, "make the directory for programs: %w", err)
	}
	begun := time.Now()
	proc, err := sup.start("build", "go", "build", "-C", root, "-v", "-o", bin+string(filepath.Separator), "./cmd/meshhub", "./cmd/meshagent")
	if err != nil {
		return programs{}, fault.New(fault.CodeDemoPrograms, "build the programs: %w", err)
	}
	build("building meshhub and meshagent (the first time takes a few minutes)")
	if err := followBuild(ctx, proc, build); err != nil {
		return programs{}, err
	}
	p, ok := inDir(bin)
	if !ok {
		return programs{}, fault.New(fault.CodeDemoPrograms, "go build left no programs in %s", bin)
	}
	p.found = fmt.Sprintf("built in %.1fs", time.Since(begun).Seconds())
	return p, nil
}

// followBuild tells of each package that `go build -v` names, until it ends.
func followBuild(ctx context.Context, p *process, build func(what string)) error {
	tick := time.NewTicker(300 * time.Millisecond)
	defer tick.Stop()
	told := 0
	for {
		select {
		case <-p.exited:
			if p.err != nil {
				return fault.New(fault.CodeDemoPrograms, "go build: %w\n%s", p.err, p.tail())
			}
			return nil
		case <-ctx.Done():
			p.kill()
			return context.Cause(ctx)
		case <-tick.C:
			data, err := os.ReadFile(p.log)
			lines := strings.Split(strings.TrimSpace(string(data)), "\n")
			if err != nil || len(lines) == told || lines[0] == "" {
				continue
			}
			told = len(lines)
			build(fmt.Sprintf("building meshhub and meshagent: %d packages, %s", told, lines[told-1]))
		}
	}
}

// tail gives the last lines of a text.
func tail(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
