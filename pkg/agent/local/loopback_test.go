package local

import (
	"testing"

	"github.com/meshkit/meshkit/pkg/fault"
)

func TestOnlyLoopbackAddressesAreListenedOn(t *testing.T) {
	for addr, good := range map[string]bool{
		"127.0.0.1:0": true, "127.9.9.9:0": true, "[::1]:7000": true, "localhost:0": true, "[::ffff:127.0.0.1]:0": true,
		":7000": false, "0.0.0.0:0": false, "[::]:0": false, "10.0.0.1:7000": false, "[fe80::1%eth0]:1": false,
		"localhost.example.com:1": false, "128.0.0.1:1": false, "127.0.0.1": false,
	} {
		err := CheckListen(addr)
		if good && err != nil || !good && fault.CodeOf(err) != fault.CodeConfig {
			t.Errorf("%s: %v, want good: %t", addr, err, good)
		}
		if good {
			continue
		}
		// A flag does not pass through the check of the file.
		if l, err := listenLoopback(addr); fault.CodeOf(err) != fault.CodeConfig {
			t.Errorf("%s: %v, want it not listened on", addr, err)
			if l != nil {
				_ = l.Close()
			}
		}
	}
}
