package consul

import (
	"errors"
	"io"
	"net/url"
	"strings"
	"testing"

	"github.com/meshkit/meshkit/pkg/fault"
)

func TestAPrefixThatLeadsElsewhereIsRefused(t *testing.T) {
	for prefix, says := range map[string]string{
		"a/../b": `part ".."`, "..": `part ".."`, "a/./b": `part "."`, "a//b": "empty part", "/a": "empty part", "a//": "empty part",
		"a%2F..%2Fb": `part ".."`, "a%0ab": "control characters", "a%00": "control characters", "%ff": "not UTF-8",
	} {
		_, err := ParseURL("consul://127.0.0.1:8500/" + prefix)
		if !errors.Is(err, fault.CodeConfig) || !strings.Contains(err.Error(), says) || !strings.Contains(fault.RemedyOf(err), "consul://HOST:PORT/PREFIX") {
			t.Errorf("prefix %q: %v", prefix, err)
		}
	}
	for prefix, want := range map[string]string{"": "meshkit/d/", "mesh": "mesh/d/", "mesh/": "mesh/d/", "a/b..c/.d": "a/b..c/.d/d/"} {
		c, err := ParseURL("consul://127.0.0.1:8500/" + prefix)
		if c.Domain = "d"; err != nil || c.Root() != want {
			t.Errorf("prefix %q: keys under %q, %v, want %q", prefix, c.Root(), err, want)
		}
	}
}

func TestAnErrorNamesConsulOnceAndNoRequest(t *testing.T) {
	d := open(t, Config{Address: "127.0.0.1:1"})
	request := &url.Error{Op: "Put", URL: "http://127.0.0.1:1/v1/txn?consistent=", Err: io.ErrUnexpectedEOF}
	own := fault.New(fault.CodeStoreUnavailable, "Consul at 127.0.0.1:1 did not answer within 3s")
	for err, want := range map[error]string{
		request: "read log: Consul: unexpected EOF", own: "read log: Consul at 127.0.0.1:1 did not answer within 3s",
	} {
		if got := d.failure(t.Context(), "read log", false, err); got.Error() != want || fault.CodeOf(got) != fault.CodeStoreUnavailable {
			t.Errorf("got %v (%s), want %q", got, fault.CodeOf(got), want)
		}
	}
}
