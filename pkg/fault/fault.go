// Package fault is the one vocabulary of errors: a Kind that decides how a
// caller reacts (gRPC status, HTTP status and exit code are each derived from it
// in exactly one place elsewhere), a stable Code that `meshctl explain CODE`
// knows, a sentence for people, and the command that mends it.
//
// Create an error with New at the place that knows what went wrong; wrap it on
// the way up with fmt.Errorf("verb phrase: %w", err), which keeps code and kind.
// All functions are safe for concurrent use.
package fault

import (
	"errors"
	"fmt"
)

// Kind says what a caller can do about an error.
type Kind uint8

const (
	// Internal is a defect in MeshKit or an I/O failure with no better name.
	Internal Kind = iota
	// Invalid input: it will be refused again unless it changes.
	Invalid
	// NotFound: what was named does not exist.
	NotFound
	// AlreadyExists: the name is taken.
	AlreadyExists
	// Conflict: the state that the request stood on has moved; read and retry.
	Conflict
	// Unauthenticated: the caller has not proven who it is.
	Unauthenticated
	// Denied: the caller is known and may not do this.
	Denied
	// Unavailable: try again later or elsewhere; nothing was done.
	Unavailable
	// Unknown: the outcome is not known; retry with the same request id.
	Unknown
	// Exhausted: a limit was reached.
	Exhausted
	// Timeout: the caller's deadline passed first.
	Timeout
	// Canceled: the caller went away.
	Canceled
	// Corrupt: stored or received bytes fail verification.
	Corrupt
)

var kindNames = [...]string{
	Internal: "internal", Invalid: "invalid", NotFound: "not found", AlreadyExists: "already exists",
	Conflict: "conflict", Unauthenticated: "unauthenticated", Denied: "denied", Unavailable: "unavailable",
	Unknown: "outcome unknown", Exhausted: "limit reached", Timeout: "timed out", Canceled: "canceled", Corrupt: "corrupt",
}

// String returns the kind in words.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Code is a stable identifier, "MK" and four digits. It never changes meaning
// and is never reused.
type Code string

// Entry is what is known of a code without any particular error.
type Entry struct {
	Code Code
	Kind Kind
	// Title is a short phrase, for lists.
	Title string
	// Explanation says what it means and how it comes about.
	Explanation string
	// Remedy is what to do, with commands where there are any.
	Remedy string
}

// Error is one occurrence. Message says what happened, where and why; Remedy
// overrides the entry's general one when it can be more exact. Neither holds
// secrets.
type Error struct {
	Code    Code
	Kind    Kind
	Message string
	Remedy  string
	Cause   error
}

// New makes an error of a registered code; the kind is the code's. A %w verb in
// format sets the cause. An unregistered code is a defect and panics.
func New(code Code, format string, args ...any) *Error {
	e, ok := Lookup(code)
	if !ok {
		panic("fault: unregistered code " + string(code))
	}
	wrapped := fmt.Errorf(format, args...)
	return &Error{Code: code, Kind: e.Kind, Message: wrapped.Error(), Cause: errors.Unwrap(wrapped)}
}

// WithRemedy returns a copy of e with a more exact remedy than its code's.
func (e *Error) WithRemedy(format string, args ...any) *Error {
	c := *e
	c.Remedy = fmt.Sprintf(format, args...)
	return &c
}

// Error implements error.
func (e *Error) Error() string { return e.Message }

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Cause }

// Is makes errors.Is(err, fault.Code("MK1003")) work through codes.
func (e *Error) Is(target error) bool {
	c, ok := target.(Code)
	return ok && c == e.Code
}

// Error makes Code usable as the target of errors.Is.
func (c Code) Error() string { return string(c) }

// CodeOf gives the outermost code in err's chain, or "".
func CodeOf(err error) Code {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return ""
}

// KindOf gives the outermost kind in err's chain; Internal when there is none.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return Internal
}

// RemedyOf gives the remedy of the outermost fault in err's chain: the error's
// own, else its code's.
func RemedyOf(err error) string {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		return ""
	}
	if e.Remedy != "" {
		return e.Remedy
	}
	entry, _ := Lookup(e.Code)
	return entry.Remedy
}
