// Package expr compiles and evaluates the conditions of authorization policies.
// They are written in CEL (https://cel.dev) and see one request:
//
//	request.service     string               the service called
//	request.procedure   string               the procedure called, like "Checkout::pay"
//	request.headers     map(string, string)  metadata, names in lower case
//	request.caller      string               service name of the caller
//	request.tenant      string
//	request.shard       string               shard key
//	request.routingKey  string
//	source.spiffe       string               SPIFFE ID of the caller, "" when it has none
//
// For example
//
//	source.spiffe.startsWith("spiffe://eu-west/") && request.tenant in ["acme", "globex"]
//
// A condition must yield a bool. It is pure: standard functions and macros only,
// without those that parse timestamps (they would read the machine's time zones),
// and with constant patterns for matches(). Evaluation needs no interruption: the
// source is limited to MaxSource bytes, the worst-case cost that CEL estimates
// for requests of ordinary size (64 headers, values of 1 KiB, other strings of
// 256 bytes) to MaxCost, and the cost of each evaluation, whatever the request, to
// the same figure. A unit of cost is about one CEL operation; MaxCost units take a
// few milliseconds.
//
// Nothing of CEL is set up before the first Compile, so that a process without
// such policies does not pay for it. All functions are safe for concurrent use.
package expr

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"unicode"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/checker"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/env"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/interpreter"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/resource"
)

const (
	// MaxSource is the longest expression, in bytes.
	MaxSource = 4096
	// MaxCost limits both the estimated and the actual cost.
	MaxCost = 100_000

	maxDepth       = 32   // nesting of parentheses and operators
	maxText        = 256  // assumed length of a request's strings
	maxHeaders     = 64   // assumed number of headers
	maxHeaderValue = 1024 // assumed length of a header value
)

// Input is what a condition sees. The zero value is a request of which nothing is
// known. Names of Headers are in lower case.
type Input struct {
	Service, Procedure        string
	Headers                   map[string]string
	Caller, Tenant            string
	Shard, RoutingKey, Spiffe string
}

// variables lists the names of Input's fields for conditions.
var variables = []string{
	"request.service", "request.procedure", "request.headers", "request.caller",
	"request.tenant", "request.shard", "request.routingKey", "source.spiffe",
}

// Error is a source that cannot be used. Line and Column count from 1 and are 0
// when the error concerns the whole source. Its fault has one of the codes
// CodeExprSyntax, CodeExprType, CodeExprCost and CodeExprSize.
type Error struct {
	Line, Column int
	Fault        *fault.Error
}

// Error implements error.
func (e *Error) Error() string { return e.Fault.Error() }

// Unwrap gives the fault.
func (e *Error) Unwrap() error { return e.Fault }

// Program is a compiled condition.
type Program struct {
	source string
	cost   uint64
	plan   cel.Program
}

// Source gives the text that was compiled.
func (p *Program) Source() string { return p.source }

// Cost gives the estimated worst-case cost for a request of ordinary size, at
// most MaxCost.
func (p *Program) Cost() uint64 { return p.cost }

// environment is built once, by the first Compile.
var environment = sync.OnceValues(func() (*cel.Env, error) {
	without := []string{"timestamp", "getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear", "getFullYear", "getHours", "getMilliseconds", "getMinutes", "getMonth", "getSeconds"}
	subset := &env.LibrarySubset{}
	for _, name := range without {
		subset.ExcludeFunctions = append(subset.ExcludeFunctions, env.NewFunction(name))
	}
	opts := []cel.EnvOption{
		cel.StdLib(cel.StdLibSubset(subset)),
		cel.ParserRecursionLimit(maxDepth),
		cel.ParserExpressionSizeLimit(MaxSource),
		cel.ASTValidators(cel.ValidateRegexLiterals(), cel.ValidateComprehensionNestingLimit(2), constantPatterns{}),
	}
	for _, name := range variables {
		kind := cel.StringType
		if name == "request.headers" {
			kind = cel.MapType(cel.StringType, cel.StringType)
		}
		opts = append(opts, cel.Variable(name, kind))
	}
	return cel.NewCustomEnv(opts...)
})

// Compile checks source and prepares it. Its error is an *Error.
func Compile(source string) (*Program, error) {
	if len(source) > MaxSource {
		return nil, fail(0, 0, fault.CodeExprSize, "expression has %d bytes; at most %d are allowed", len(source), MaxSource)
	}
	if strings.TrimSpace(source) == "" {
		return nil, fail(1, 1, fault.CodeExprSyntax, "expression is empty")
	}
	e, err := environment()
	if err != nil {
		return nil, fail(0, 0, fault.CodeInternal, "set up CEL: %w", err)
	}
	parsed, issues := e.Parse(source)
	if issues.Err() != nil {
		return nil, firstIssue(fault.CodeExprSyntax, source, issues)
	}
	checked, issues := e.Check(parsed)
	if issues.Err() != nil {
		return nil, firstIssue(fault.CodeExprType, source, issues)
	}
	if out := checked.OutputType(); !out.IsExactType(cel.BoolType) {
		return nil, fail(1, 1, fault.CodeExprType, "expression yields %s; a condition must yield bool", out)
	}
	estimate, err := e.EstimateCost(checked, sizes{})
	if err != nil {
		return nil, fail(0, 0, fault.CodeExprCost, "estimate cost of expression: %w", err)
	}
	if estimate.Max > MaxCost {
		return nil, fail(0, 0, fault.CodeExprCost, "expression may cost %d units on one request; at most %d are allowed", estimate.Max, MaxCost)
	}
	plan, err := e.Program(checked, cel.CostLimit(MaxCost))
	if err != nil {
		return nil, fail(0, 0, fault.CodeExprType, "plan expression: %w", err)
	}
	return &Program{source: source, cost: estimate.Max, plan: plan}, nil
}

// Eval decides the condition for one request. An error (a header that is not
// there, the cost limit) has the code CodeExprEval or CodeExprCost; a caller that
// decides about access must treat it as "cannot tell" and fail closed.
func (p *Program) Eval(in Input) (bool, error) {
	out, _, err := p.plan.Eval(&activation{in: &in})
	if err != nil {
		if stop, ok := errors.AsType[interpreter.EvalCancelledError](err); ok && stop.Cause == interpreter.CostLimitExceeded {
			return false, fault.New(fault.CodeExprCost, "expression %q: cost limit of %d units exceeded", shorten(p.source), MaxCost)
		}
		return false, fault.New(fault.CodeExprEval, "expression %q: %w", shorten(p.source), err)
	}
	verdict, ok := out.Value().(bool)
	if !ok {
		return false, fault.New(fault.CodeExprEval, "expression %q yields %v, not a bool", shorten(p.source), out.Type())
	}
	return verdict, nil
}

// activation resolves variables without building a map. Used by one evaluation.
type activation struct{ in *Input }

func (a *activation) Parent() cel.Activation { return nil }

func (a *activation) ResolveName(name string) (any, bool) {
	switch name {
	case "request.service":
		return types.String(a.in.Service), true
	case "request.procedure":
		return types.String(a.in.Procedure), true
	case "request.headers":
		return a.in.Headers, true
	case "request.caller":
		return types.String(a.in.Caller), true
	case "request.tenant":
		return types.String(a.in.Tenant), true
	case "request.shard":
		return types.String(a.in.Shard), true
	case "request.routingKey":
		return types.String(a.in.RoutingKey), true
	case "source.spiffe":
		return types.String(a.in.Spiffe), true
	}
	return nil, false
}

// sizes tells CEL's estimator how large a request's parts are assumed to be.
type sizes struct{}

func (sizes) EstimateSize(n checker.AstNode) *checker.SizeEstimate {
	path := n.Path()
	if len(path) == 0 {
		return nil
	}
	switch {
	case path[0] != "request.headers":
		return &checker.SizeEstimate{Max: maxText}
	case len(path) == 1:
		return &checker.SizeEstimate{Max: maxHeaders}
	default:
		return &checker.SizeEstimate{Max: maxHeaderValue}
	}
}

func (sizes) EstimateCallCost(string, string, *checker.AstNode, []checker.AstNode) *checker.CallEstimate {
	return nil
}

// constantPatterns refuses matches() with a pattern that a request could choose.
type constantPatterns struct{}

func (constantPatterns) Name() string { return "meshkit.constant_patterns" }

func (constantPatterns) Validate(_ *cel.Env, _ cel.ValidatorConfig, a *ast.AST, issues *cel.Issues) {
	for _, call := range ast.MatchDescendants(ast.NavigateAST(a), ast.FunctionMatcher("matches")) {
		args := call.AsCall().Args()
		if pattern := args[len(args)-1]; pattern.Kind() != ast.LiteralKind {
			issues.ReportErrorAtID(pattern.ID(), "pattern of matches() must be a constant")
		}
	}
}

func firstIssue(code fault.Code, source string, issues *cel.Issues) *Error {
	first := issues.Errors()[0]
	line, column := first.Location.Line(), first.Location.Column()+1
	message := first.Message
	if name, ok := strings.CutPrefix(message, "undeclared reference to '"); ok {
		name, _, _ = strings.Cut(name, "'")
		if _, ok := operators.FindReverse(name); !ok {
			message = unknownName(name, nameAt(source, line, column))
		}
	}
	return fail(line, column, code, "line %d, column %d: %s", line, column, message)
}

// nameAt gives the dotted name that starts at a position, which CEL reports
// without what follows its first dot.
func nameAt(source string, line, column int) string {
	lines := strings.Split(source, "\n")
	if line < 1 || line > len(lines) {
		return ""
	}
	text := []rune(lines[line-1])
	end := max(column-1, 0)
	for end < len(text) && (text[end] == '.' || text[end] == '_' || unicode.IsLetter(text[end]) || unicode.IsDigit(text[end])) {
		end++
	}
	return string(text[min(max(column-1, 0), end):end])
}

func unknownName(reported, written string) string {
	if !strings.HasPrefix(written, reported) {
		written = reported
	}
	if near, ok := nearest(written); ok {
		return fmt.Sprintf("nothing is called %s; did you mean %s?", written, near)
	}
	return fmt.Sprintf("nothing is called %s; there are %s", written, strings.Join(variables, ", "))
}

// nearest finds the variable whose last part is most like that of written.
func nearest(written string) (string, bool) {
	last := func(name string) string { return name[strings.LastIndexByte(name, '.')+1:] }
	var parts []string
	for _, v := range variables {
		parts = append(parts, last(v))
	}
	near, ok := resource.FindField(last(written), parts)
	if !ok {
		return "", false
	}
	return variables[slices.Index(parts, near)], true
}

func fail(line, column int, code fault.Code, format string, args ...any) *Error {
	return &Error{Line: line, Column: column, Fault: fault.New(code, format, args...)}
}

func shorten(source string) string {
	const most = 60
	if len(source) <= most {
		return source
	}
	return strings.ToValidUTF8(source[:most], "") + "…"
}
