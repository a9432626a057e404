package fault

import (
	"fmt"
	"slices"
	"strings"
)

// The registry is one table per area, each in its own file beside this one:
// MK1xxx log and store, MK2xxx resources and validation, MK3xxx trust and
// identity, MK4xxx distribution, MK5xxx agent, MK6xxx hub and admin API, MK7xxx
// command line, MK9xxx the product as a whole.
var registry = index(storeCodes, resourceCodes, graphCodes, trustCodes, distributionCodes, agentCodes, hubCodes, backupCodes, cliCodes, commonCodes)

func index(tables ...[]Entry) map[Code]Entry {
	m := make(map[Code]Entry)
	for _, t := range tables {
		for _, e := range t {
			if _, dup := m[e.Code]; dup {
				panic(fmt.Sprintf("fault: code %s registered twice", e.Code))
			}
			m[e.Code] = e
		}
	}
	return m
}

// Lookup gives the entry of a code.
func Lookup(c Code) (Entry, bool) {
	e, ok := registry[c]
	return e, ok
}

// All gives every entry, by code.
func All() []Entry {
	out := make([]Entry, 0, len(registry))
	for _, e := range registry {
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b Entry) int { return strings.Compare(string(a.Code), string(b.Code)) })
	return out
}

// Codes of the product as a whole.
const (
	CodeInternal Code = "MK9001"
	CodeTimeout  Code = "MK9002"
	CodeCanceled Code = "MK9003"
	CodeIO       Code = "MK9004"
	CodeConfig   Code = "MK9005"
)

var commonCodes = []Entry{
	{CodeInternal, Internal, "internal error", "MeshKit met a state that its authors did not foresee.", "Report it with the log lines around it; the request can be retried with the same request id."},
	{CodeTimeout, Timeout, "deadline passed", "The caller's deadline passed before the work was done. A write may still have been committed.", "Retry with the same request id, or with a longer --timeout."},
	{CodeCanceled, Canceled, "canceled", "The caller went away before the work was done.", "Run it again when you want it done."},
	{CodeIO, Internal, "file or device error", "The operating system refused to read or write a file.", "Check the path, its owner and mode, and free space (df -h), then retry."},
	{CodeConfig, Invalid, "configuration not valid", "A configuration file or flag has a value that cannot be used.", "Correct the named field; `PROGRAM --help` shows every setting."},
}
