package cliutil

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/meshkit/meshkit/pkg/fault"
)

// Exit codes; docs/cli.md has the table.
const (
	ExitOK          = 0
	ExitError       = 1
	ExitDiffers     = 2
	ExitAuth        = 4
	ExitNotFound    = 5
	ExitBaseMoved   = 6
	ExitWaitTimeout = 8
	ExitPartial     = 9
	ExitUsage       = 64
	ExitBadInput    = 65
	ExitInterrupted = 130
)

// ExitMeaning is one row of the documented table.
type ExitMeaning struct {
	Code int
	// Short is for the help, Meaning for the documentation.
	Short, Meaning string
}

// ExitMeanings is the table of exit codes, for help and docs.
var ExitMeanings = []ExitMeaning{
	{ExitOK, "ok", "done, or nothing to do"},
	{ExitError, "error", "it could not be done; the message says why"},
	{ExitDiffers, "differences", "`plan --exit-code` found differences"},
	{ExitAuth, "auth", "the hub does not know or does not permit the caller, or credentials cannot be used"},
	{ExitNotFound, "not found", "what was named does not exist"},
	{ExitBaseMoved, "base moved", "the state that the request stood on has moved: look again and retry"},
	{ExitWaitTimeout, "wait timed out", "a wait or deadline ran out; with `--wait`, the change itself is committed"},
	{ExitPartial, "partial", "committed, but some agents refused it"},
	{ExitUsage, "usage", "unknown command, flag or kind, missing argument, no hub chosen"},
	{ExitBadInput, "bad input", "the input has errors: files, plan file, values"},
	{ExitInterrupted, "interrupted", "ended by a signal (Ctrl-C)"},
}

// ExitCode is the one place where an error becomes an exit code: a few codes
// of the command line have their own, all others follow from the fault's kind.
func ExitCode(err error) int {
	if err == nil {
		return ExitOK
	}
	switch fault.CodeOf(err) {
	case fault.CodeUsage, fault.CodeNoContext, fault.CodeOutputFormat, fault.CodeNoSuchKind, fault.CodeSelector:
		return ExitUsage
	case fault.CodeDiffers:
		return ExitDiffers
	case fault.CodePartial:
		return ExitPartial
	case "":
		if errors.Is(err, context.Canceled) {
			return ExitInterrupted
		}
		if errors.Is(err, context.DeadlineExceeded) {
			return ExitWaitTimeout
		}
		return ExitError
	}
	switch fault.KindOf(err) {
	case fault.Invalid:
		return ExitBadInput
	case fault.NotFound:
		return ExitNotFound
	case fault.Conflict:
		return ExitBaseMoved
	case fault.Unauthenticated, fault.Denied:
		return ExitAuth
	case fault.Timeout:
		return ExitWaitTimeout
	case fault.Canceled:
		return ExitInterrupted
	}
	return ExitError
}

// Usagef makes the error of a wrong invocation.
func Usagef(format string, args ...any) *fault.Error {
	return fault.New(fault.CodeUsage, format, args...)
}

// Silent is an outcome whose message has been shown already; only its exit
// code is left to deliver.
type Silent struct{ Err error }

// Error implements error.
func (s Silent) Error() string { return s.Err.Error() }

// Unwrap gives the outcome.
func (s Silent) Unwrap() error { return s.Err }

// Report shows err to the person:
//
//	error[MK2104]: what happened, where and why
//	  fix: what to do about it
//
// A Silent outcome is not shown again.
func Report(s *IO, err error) {
	var silent Silent
	if err == nil || errors.As(err, &silent) {
		return
	}
	label := "error"
	if code := fault.CodeOf(err); code != "" {
		label = fmt.Sprintf("error[%s]", code)
	}
	lines := strings.Split(strings.TrimRight(CleanText(err.Error()), "\n"), "\n")
	fmt.Fprintf(s.Err, "%s %s\n", s.PaintErr(Red, label+":"), lines[0])
	for _, l := range lines[1:] {
		fmt.Fprintf(s.Err, "  %s\n", l)
	}
	for i, l := range strings.Split(CleanText(fault.RemedyOf(err)), "\n") {
		if l == "" {
			continue
		}
		if i == 0 {
			fmt.Fprintf(s.Err, "  %s %s\n", s.PaintErr(Green, "fix:"), l)
			continue
		}
		fmt.Fprintf(s.Err, "       %s\n", l)
	}
}
