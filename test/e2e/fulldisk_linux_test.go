package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/test/harness"
)

// TestAFullDiskStopsWritesAndNothingElse puts the hub on a small disk and fills it:
// writes fail with a code, reads and streams go on, what was acknowledged stays, and
// when space returns the hub recovers by itself.
func TestAFullDiskStopsWritesAndNothingElse(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting a small tmpfs needs root; CI runs as root")
	}
	c := harness.New(t)
	disk := c.Path("hub")
	if err := os.Mkdir(disk, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=16m,mode=0700"); err != nil {
		t.Fatalf("mount a small disk: %v", err)
	}
	s := &site{Cluster: c, mesh: exampleMesh(t, c)}
	t.Cleanup(func() { // before the cluster's directory is removed, and after the hub ended
		if s.hub != nil && s.hub.Process != nil {
			s.hub.Kill()
		}
		if err := syscall.Unmount(disk, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	s.hub = c.NewHub("eu-west")
	s.agent = c.NewAgent(s.hub, "node-1", "region=eu")
	s.Ctl("apply", "-f", s.mesh, "--wait")

	ballast := filepath.Join(disk, "ballast")
	fill(t, ballast)
	acknowledged := -1
	var r harness.Result
	for i := range 50 {
		r = s.Run("meshctl", "apply", "-f", s.write(t, "big.yaml", big(i)))
		if r.Code != 0 {
			break
		}
		acknowledged = i
	}
	wantRefused(t, r, 1, "MK", "no space left")
	if got := codePattern.FindString(r.Stderr); got != string(fault.CodeStoreFull) && got != string(fault.CodeReadOnly) {
		t.Errorf("a full disk gave %s", got)
	}
	t.Logf("writes %d fitted before the disk was full", acknowledged+1)
	wantContains(t, "get routes on a full disk", s.Ctl("get", "routes"), "checkout")
	if st := status(t, s.Cluster, s.agent); !st.Connected {
		t.Errorf("the agent's stream ended: %+v", st)
	}
	if code, body := s.readyz(t); code != http.StatusServiceUnavailable || !strings.Contains(body, "no space left") {
		t.Errorf("/readyz on a full disk says %d %s", code, body)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if err := harness.Poll(harness.Patience, func() (bool, error) {
		return s.Run("meshctl", "apply", "-f", s.write(t, "big.yaml", big(1000)), "--wait").Code == 0, nil
	}); err != nil {
		t.Errorf("with space back the hub does not write: %v\n%s", err, s.Log("hub"))
	}
	for i := range acknowledged + 1 {
		if r := s.Run("meshctl", "get", "cluster", fmt.Sprintf("big-%d", i)); r.Code != 0 {
			t.Errorf("acknowledged big-%d is lost: %s", i, r.Stderr)
		}
	}
}

// big is a cluster of some 100 KiB.
func big(i int) string {
	var b strings.Builder
	b.WriteString(clusterYAML(fmt.Sprintf("big-%d", i), "10.0.0.1:80"))
	for n := range 1500 {
		fmt.Fprintf(&b, "    - address: host-%d.with-a-name.of.some.length.example.internal:8080\n", n)
	}
	return b.String()
}

// fill writes path until its disk is full.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 64<<10); err == nil; {
		_, err = f.Write(block)
	}
	if !strings.Contains(err.Error(), "no space left") {
		t.Fatal(err)
	}
}
