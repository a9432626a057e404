package cliutil

import (
	"os"
	"path/filepath"
)

// nearby are where `meshhub init --data ./hub` leaves a context, seen from the
// directory it was run in and from ./hub itself.
var nearby = []string{filepath.Join("hub", "admin", "context.yaml"), filepath.Join("admin", "context.yaml")}

// discover finds the context of a hub that was made right here. It is asked only
// when nothing else names a hub, and takes only a file that the caller owns and
// no one else may write, so that a foreign directory cannot choose the hub.
func discover() (path string, ok bool) {
	for _, p := range nearby {
		info, err := os.Lstat(p)
		if err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o022 == 0 && ownedByCaller(info) {
			return p, true
		}
	}
	return "", false
}
