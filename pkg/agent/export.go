package agent

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/meshkit/meshkit/pkg/digest"
	"github.com/meshkit/meshkit/pkg/durable"
	"github.com/meshkit/meshkit/pkg/fault"
)

// maxOutput bounds what is kept of a command's output.
const maxOutput = 2 << 10

// writeBundle replaces path by b's content:
//
//	{
//	  "epoch": 3, "version": 17, "view": "…", "digest": "<64 hex digits>",
//	  "manifest": "<base64 of the protobuf DSSE envelope>",
//	  "resources": {
//	    "Cluster/default/payments": {…},
//	    …
//	  }
//	}
//
// Each resource is on a line of its own, in the order of the digest trie, with its
// canonical bytes as signed. A reader sees the old file or the new one.
func writeBundle(fsys durable.FS, path string, b *bundle) error {
	if err := durable.MkdirAll(fsys, filepath.Dir(path), 0o700); err != nil {
		return err
	}
	tmp := path + durable.TempSuffix
	if err := fsys.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := fsys.Create(tmp, 0o600)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 32<<10)
	err = encodeBundle(w, b)
	if err == nil {
		err = w.Flush()
	}
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = durable.Rename(fsys, tmp, path)
	}
	if err != nil {
		_ = fsys.Remove(tmp)
		return fmt.Errorf("write bundle: %w", err)
	}
	return nil
}

func encodeBundle(w io.Writer, b *bundle) error {
	envelope, err := proto.Marshal(b.content.Manifest)
	if err != nil {
		return err
	}
	// What the manifest states: a later point of the same content changes nothing.
	point := claimed(b.content.Manifest)
	view, err := json.Marshal(point.View)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "{\n\"epoch\": %d, \"version\": %d, \"view\": %s, \"digest\": \"%s\",\n\"manifest\": \"%s\",\n\"resources\": {",
		point.Epoch, point.Version, view, point.Digest, base64.StdEncoding.EncodeToString(envelope))
	if err != nil {
		return err
	}
	separator := "\n"
	for l := range b.content.Trie.All() {
		if err := encodeLeaf(w, separator, l); err != nil {
			return err
		}
		separator = ",\n"
	}
	_, err = io.WriteString(w, "\n}\n}\n")
	return err
}

func encodeLeaf(w io.Writer, separator string, l digest.Leaf) error {
	key, err := json.Marshal(l.Key)
	if err != nil {
		return err
	}
	for _, part := range [][]byte{[]byte(separator), key, []byte(": "), l.Content} {
		if _, err := w.Write(part); err != nil {
			return err
		}
	}
	return nil
}

// execute runs a command of the operator's, without a shell, in a process group of
// its own, with what it needs to know in the environment. The error has code, and
// the end of the command's output in its message. The command is killed when it
// runs past timeout.
func execute(ctx context.Context, code fault.Code, timeout time.Duration, command []string, b *bundle, path string) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "MESHKIT_TOKEN=") }),
		"MESHKIT_BUNDLE="+path,
		"MESHKIT_EPOCH="+strconv.FormatUint(b.point.Epoch, 10),
		"MESHKIT_VERSION="+strconv.FormatUint(b.point.Version, 10),
		"MESHKIT_DIGEST="+b.point.Digest.String(),
	)
	out := &tail{}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.WaitDelay = time.Second
	isolate(cmd)
	err := cmd.Run()
	if err == nil || errors.Is(err, exec.ErrWaitDelay) {
		// In the second case it ended well, and something that it started, such as a
		// data plane, still holds its output.
		return nil
	}
	why := err.Error()
	if ctx.Err() == context.DeadlineExceeded {
		why = fmt.Sprintf("ran for longer than %s", timeout)
	}
	if text := strings.TrimSpace(out.String()); text != "" {
		why += ": " + text
	}
	return fault.New(code, "command %s: %s", filepath.Base(command[0]), why)
}

// tail keeps the last maxOutput bytes written to it. It is used by one goroutine at
// a time, which os/exec sees to when stdout and stderr are the same writer.
type tail struct{ data []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.data = append(t.data, p...)
	if over := len(t.data) - maxOutput; over > 0 {
		t.data = append(t.data[:0], t.data[over:]...)
	}
	return len(p), nil
}

// String gives the text without what could disturb a terminal.
func (t *tail) String() string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return ' '
		}
		if !strconv.IsPrint(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(string(t.data), ""))
}
