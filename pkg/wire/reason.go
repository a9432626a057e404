package wire

import (
	"strconv"
	"strings"
)

// HandshakeReason gives what a failed handshake says without gRPC's layers of
// prefixes; text is an error's.
func HandshakeReason(text string) string {
	return lastOf(text, "handshake failed: ", "error reading server preface: ")
}

// DialReason is HandshakeReason for a connection that could not be made.
func DialReason(text string) string {
	return lastOf(text, "Error while dialing: ", "error reading server preface: ", "desc = ")
}

func lastOf(text string, markers ...string) string {
	const desc = "desc = "
	for i := strings.Index(text, desc+`"`); i >= 0; i = strings.Index(text, desc+`"`) {
		quoted, err := strconv.QuotedPrefix(text[i+len(desc):])
		if err != nil {
			break
		}
		if text, err = strconv.Unquote(quoted); err != nil {
			break
		}
	}
	for _, m := range markers {
		if i := strings.LastIndex(text, m); i >= 0 {
			text = text[i+len(m):]
		}
	}
	return strings.TrimSpace(text)
}
