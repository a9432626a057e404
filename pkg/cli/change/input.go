// Package change holds the verbs that change a domain's resources, and those
// that show what a change would do or has done: apply, plan, validate, delete,
// undo, history. One file per verb; input.go reads what -f names, wait.go
// follows a change to the agents.
//
// Files are read, decoded and checked here before anything is sent, with the
// engine that the hub and the agents use; findings carry file:line:column.
package change

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/cli/cliutil"
	"github.com/meshkit/meshkit/pkg/client"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/kind"
	"github.com/meshkit/meshkit/pkg/resource"
	"github.com/meshkit/meshkit/pkg/resource/decode"
)

// stdinName stands for standard input in positions.
const stdinName = "<stdin>"

// Input is what files hold: documents in the order of the files.
type Input struct {
	Documents []decode.Document
	Findings  []resource.Finding
	// Files is how many files were read.
	Files int
}

// Load reads files, directories (recursively: *.yaml, *.yml, *.json; not those
// that begin with a dot) and "-" for stdin. What is wrong with the content is
// in Findings; the error is for paths that cannot be read.
func Load(stdin io.Reader, paths []string) (*Input, error) {
	if len(paths) == 0 {
		return nil, cliutil.Usagef("no files given").WithRemedy("name them with -f: a file, a directory, or - for standard input")
	}
	limits := resource.DefaultLimits()
	in := &Input{}
	left := int64(limits.RequestBytes)
	seen := make(map[string]bool)
	for _, path := range paths {
		files := []string{path}
		if path != "-" {
			var err error
			if files, err = expand(path); err != nil {
				return nil, err
			}
		}
		for _, file := range files {
			if seen[filepath.Clean(file)] {
				continue // named twice, or below a directory that is named as well
			}
			seen[filepath.Clean(file)] = true
			name, data, err := readInput(stdin, file, left)
			if err != nil {
				return nil, err
			}
			left -= int64(len(data))
			docs, findings := kind.Decode(name, data, limits)
			in.Files++
			in.Documents = append(in.Documents, docs...)
			in.Findings = append(in.Findings, findings...)
		}
	}
	in.checkWhole(limits)
	if len(in.Findings) == 0 {
		return in, in.needed(paths)
	}
	return in, nil
}

// needed refuses input without resources, whose findings have been shown.
func (in *Input) needed(paths []string) error {
	if len(in.Documents) > 0 {
		return nil
	}
	return fault.New(fault.CodeNoInput, "no resource in %s", strings.Join(paths, ", "))
}

// expand lists the resource files under a path, in a stable order.
func expand(path string) ([]string, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.CodeNoInput, "%s does not exist", path)
	}
	if err != nil {
		return nil, fault.New(fault.CodeIO, "read input: %w", err)
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	var files []string
	err = filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		hidden := strings.HasPrefix(d.Name(), ".") && p != path
		if d.IsDir() {
			if hidden {
				return fs.SkipDir
			}
			return nil
		}
		if ext := filepath.Ext(p); !hidden && (ext == ".yaml" || ext == ".yml" || ext == ".json") {
			// A pipe or device, met on the way and not asked for, might never end.
			if info, err := os.Stat(p); err != nil || info.Mode().IsRegular() {
				files = append(files, p) // reading tells what is wrong with it
			}
		}
		return nil
	})
	if err != nil {
		return nil, fault.New(fault.CodeIO, "read input: %w", err)
	}
	return files, nil
}

func readInput(stdin io.Reader, file string, left int64) (name string, data []byte, err error) {
	r, name := stdin, stdinName
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return "", nil, fault.New(fault.CodeIO, "read input: %w", err)
		}
		defer f.Close()
		r, name = f, file
	}
	data, err = io.ReadAll(io.LimitReader(r, left+1))
	if errors.Is(err, context.Canceled) {
		return "", nil, err
	}
	if err != nil {
		return "", nil, fault.New(fault.CodeIO, "read %s: %w", name, err)
	}
	if int64(len(data)) > left {
		return "", nil, fault.New(fault.CodeTooLarge, "%s: the files together are larger than %d MiB, the limit of one request", name, resource.DefaultLimits().RequestBytes>>20)
	}
	return name, data, nil
}

// checkWhole finds what no single file shows: one resource in two files, too
// many resources.
func (in *Input) checkWhole(limits resource.Limits) {
	first := make(map[resource.Key]resource.Position)
	for _, d := range in.Documents {
		key, pos := d.Resource.Key(), d.Positions.At("")
		if before, dup := first[key]; dup && before.File != pos.File {
			f := resource.Errorf(fault.CodeDuplicate, key, "", "keep one of the two", "also defined at %s", before)
			f.Pos = pos
			in.Findings = append(in.Findings, f)
			continue
		}
		first[key] = pos
	}
	if len(in.Documents) > limits.RequestResources {
		in.Findings = append(in.Findings, resource.Errorf(fault.CodeTooMany, resource.Key{}, "", "split the change",
			"%d resources are more than the %d that one request may hold", len(in.Documents), limits.RequestResources))
	}
}

// locate fills in the positions of findings about the input's resources.
func (in *Input) locate(findings []resource.Finding) []resource.Finding {
	byKey := make(map[resource.Key]*decode.Document, len(in.Documents))
	for i := range in.Documents {
		byKey[in.Documents[i].Resource.Key()] = &in.Documents[i]
	}
	for i, f := range findings {
		if d := byKey[f.Key]; d != nil && f.Pos == (resource.Position{}) {
			findings[i].Pos = d.Positions.At(indexed(f.Field, d.Content))
		}
	}
	return findings
}

// fromHub turns the hub's findings into ones with positions.
func (in *Input) fromHub(findings []*adminv1.Finding) []resource.Finding {
	out := make([]resource.Finding, 0, len(findings))
	for _, w := range findings {
		f := resource.Finding{Code: fault.Code(w.GetCode()), Severity: resource.Severity(w.GetSeverity()), Key: cliutil.KeyOf(w.GetResource()),
			Field: w.GetField(), Reason: w.GetReason(), Remedy: w.GetRemedy()}
		if i := int(w.GetIndex()); i >= 0 && i < len(in.Documents) && in.Documents[i].Resource.Key() == f.Key {
			f.Pos = in.Documents[i].Positions.At(indexed(f.Field, in.Documents[i].Content))
		}
		out = append(out, f)
	}
	return in.locate(out)
}

// Change applies the input as meshctl does, with the given message.
func (in *Input) Change(message string) *adminv1.Change {
	return (&inputFlags{manager: fieldManager, message: message}).change(in)
}

// Try applies the input and gives the hub's findings with their places in the
// files; an error that no finding explains comes back as it is.
func (in *Input) Try(ctx context.Context, c *client.Client, requestID string) ([]resource.Finding, error) {
	change := in.Change("")
	resp, err := c.Apply(ctx, &adminv1.ApplyRequest{Change: change, RequestId: requestID})
	if err != nil {
		return in.refusal(ctx, c, change, err)
	}
	return in.fromHub(resp.GetPlan().GetFindings()), nil
}

// refusal asks for all findings of a change that the hub refused, since the
// error names only the first; if the hub has no errors to name any more, the
// mesh has moved, and err stands.
func (in *Input) refusal(ctx context.Context, c *client.Client, change *adminv1.Change, err error) ([]resource.Finding, error) {
	if !refusedByValidation(err) {
		return nil, err
	}
	plan, planErr := c.Plan(ctx, change)
	if planErr != nil {
		return nil, err
	}
	findings := in.fromHub(plan.GetFindings())
	if !resource.HasErrors(findings) {
		return nil, err
	}
	return findings, nil
}

// stale tells what to do when the base that moved is that of a fetched file, not
// of a plan.
func (in *Input) stale(err error) error {
	fetched := slices.ContainsFunc(in.Documents, func(d decode.Document) bool { return d.ResourceVersion > 0 })
	if fault.CodeOf(err) != fault.CodeBaseMoved || !fetched {
		return err
	}
	return fault.New(fault.CodeBaseMoved, "%s", err).
		WithRemedy("get it again (`meshctl get KIND NAME -o yaml`) and repeat the edit, or take metadata.resourceVersion out of the file to apply it regardless: grep -v '^  resourceVersion: ' FILE > NEWFILE")
}

// refusedByValidation tells whether the hub has findings to explain err.
func refusedByValidation(err error) bool {
	switch fault.CodeOf(err) {
	case fault.CodeChangeInvalid, fault.CodeFieldConflict, fault.CodeLargeRemoval:
		return true
	}
	return false
}

// commit applies a change and shows what the hub finds wrong with it.
func (in *Input) commit(ctx context.Context, app *cliutil.App, c *client.Client, req *adminv1.ApplyRequest) (*adminv1.ApplyResponse, error) {
	resp, err := c.Apply(ctx, req)
	findings := in.fromHub(resp.GetPlan().GetFindings())
	if err != nil {
		if findings, err = in.refusal(ctx, c, req.GetChange(), err); err != nil {
			return nil, app.Unknown(in.stale(err), req.GetRequestId())
		}
	}
	return resp, ShowFindings(app.IO, findings)
}

// contents are the documents as the admin API takes them: canonical content,
// with metadata.resourceVersion where the file has it, so that the hub refuses
// to overwrite what has changed since the file was fetched.
func (in *Input) contents() [][]byte {
	out := make([][]byte, len(in.Documents))
	for i, d := range in.Documents {
		out[i] = d.Content
		if d.ResourceVersion > 0 {
			out[i] = withVersion(d.Content, d.ResourceVersion)
		}
	}
	return out
}

func withVersion(content []byte, version uint64) []byte {
	var envelope map[string]json.RawMessage
	var metadata map[string]json.RawMessage
	if json.Unmarshal(content, &envelope) != nil || json.Unmarshal(envelope["metadata"], &metadata) != nil {
		return content // Decode made it: it is a resource
	}
	metadata["resourceVersion"] = json.RawMessage(strconv.Quote(strconv.FormatUint(version, 10)))
	envelope["metadata"] = mustJSON(metadata)
	return mustJSON(envelope)
}

// mustJSON encodes maps of JSON that was just decoded, which cannot fail.
func mustJSON(v any) json.RawMessage {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return data
}

// ShowFindings prints findings to people, one line each, sorted by place, and a
// count; it returns the error to end with when any of them is an error.
func ShowFindings(s *cliutil.IO, findings []resource.Finding) error {
	resource.SortFindings(findings)
	errorCount := 0
	for _, f := range findings {
		style := cliutil.Yellow
		if f.Severity == resource.Error {
			style = cliutil.Red
			errorCount++
		}
		writeFinding(s, f, style)
	}
	if errorCount == 0 {
		return nil
	}
	err := fault.New(fault.CodeFindings, "%s; nothing was changed", plural(errorCount, "error"))
	if !slices.ContainsFunc(findings, func(f resource.Finding) bool { return f.Pos.Line > 0 }) {
		return err.WithRemedy("see each finding above; `meshctl explain CODE` says more")
	}
	return err
}

// writeFinding prints
//
//	mesh/checkout.yaml:12:9: error[MK2401]: route/checkout spec.rules[0].clusters[0].name: there is no cluster "paymens"
//	  fix: …
func writeFinding(s *cliutil.IO, f resource.Finding, style cliutil.Style) {
	var b strings.Builder
	if p := f.Pos.String(); p != "" {
		b.WriteString(s.PaintErr(cliutil.Bold, cliutil.Clean(p)+":") + " ")
	}
	b.WriteString(s.PaintErr(style, string(f.Severity)+"["+cliutil.Clean(string(f.Code))+"]:") + " ")
	subject := f.Field
	if !f.Key.IsZero() {
		subject = strings.TrimSuffix(cliutil.Short(f.Key)+" "+f.Field, " ")
	}
	if subject != "" {
		b.WriteString(cliutil.Clean(subject) + ": ")
	}
	b.WriteString(cliutil.Clean(f.Reason) + "\n")
	if f.Remedy != "" {
		b.WriteString("  " + s.PaintErr(cliutil.Green, "fix:") + " " + cliutil.Clean(f.Remedy) + "\n")
	}
	io.WriteString(s.Err, b.String())
}
