package consultest

import (
	"os/exec"
	"strings"
	"testing"
)

// The tools step of test/run runs this test alone, so that a first build of Consul
// takes no time from the tests that need it.
func TestProgramIsTheStatedVersion(t *testing.T) {
	path, err := Program()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(path, "version").CombinedOutput()
	if err != nil || !strings.Contains(string(out), version) {
		t.Fatalf("%s version: %v\n%s", path, err, out)
	}
}
