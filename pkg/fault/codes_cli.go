package fault

// Codes of the command line.
const (
	CodeUsage           Code = "MK7001"
	CodeFindings        Code = "MK7002"
	CodeDiffers         Code = "MK7003"
	CodePlanFile        Code = "MK7004"
	CodePlanDomain      Code = "MK7005"
	CodeWaitTimeout     Code = "MK7006"
	CodePartial         Code = "MK7007"
	CodeNoContext       Code = "MK7008"
	CodeContextFile     Code = "MK7009"
	CodeContextMissing  Code = "MK7010"
	CodeUnreachable     Code = "MK7011"
	CodeHandshake       Code = "MK7012"
	CodeOutcomeUnknown  Code = "MK7013"
	CodeNoInput         Code = "MK7014"
	CodeOutputFormat    Code = "MK7015"
	CodeNoSuchKind      Code = "MK7016"
	CodeSelector        Code = "MK7017"
	CodeUnknownTopic    Code = "MK7018"
	CodeInterrupted     Code = "MK7019"
	CodeCredentials     Code = "MK7020"
	CodeDemoPrograms    Code = "MK7021"
	CodeDemoStep        Code = "MK7022"
	CodeDemoProcess     Code = "MK7023"
	CodeDemoDirectory   Code = "MK7024"
	CodeUnexpectedReply Code = "MK7025"
	CodeNoSuchDomain    Code = "MK7026"
)

var cliCodes = []Entry{
	{CodeUsage, Invalid, "wrong usage", "A command, flag or argument is not one that the program knows, or is missing.", "Run the same command with --help: it shows flags and examples."},
	{CodeFindings, Invalid, "input has errors", "Validation found errors in the files; nothing was changed.", "Correct each finding at its file:line:column; `meshctl explain CODE` says more about each."},
	{CodeDiffers, Conflict, "there are differences", "`plan --exit-code` found that applying would change something.", "Apply the plan, or leave out --exit-code."},
	{CodePlanFile, Invalid, "plan file cannot be used", "The plan file is not one that `meshctl plan --save` wrote, or its content no longer has the digest that it states.", "Make it again: `meshctl plan -f FILES --save FILE`."},
	{CodePlanDomain, Invalid, "plan is for another domain", "The plan was made against another domain than the hub's.", "Choose that domain's context with --context, or make the plan again."},
	{CodeWaitTimeout, Timeout, "wait timed out", "The change is committed, but some connected agents had not answered when --timeout passed.", "`meshctl get agents` shows who is behind; the change needs no second apply."},
	{CodePartial, Internal, "done in part", "The change is committed, but some agents refused it and keep their previous generation; or a domain is made, but some hubs do not serve it yet.", "Of agents, `meshctl describe agent NAME` tells why; then correct the change, or `meshctl undo`. Of hubs, the command names each with its reason: mend that, and repeat the command."},
	{CodeNoContext, Invalid, "no hub chosen", "Neither flags, environment nor the context file say which hub to talk to.", "`meshctl context add --from DIR/admin/context.yaml`, or set MESHKIT_HUB, MESHKIT_CA_FILE, MESHKIT_CERT_FILE and MESHKIT_KEY_FILE."},
	{CodeContextFile, Invalid, "context file cannot be used", "The context file cannot be read, or holds something that is not a context.", "Correct the file at the named place, or choose another with MESHKIT_CONFIG."},
	{CodeContextMissing, NotFound, "no such context", "The context file has no context of that name.", "`meshctl context list` shows those there are."},
	{CodeUnreachable, Unavailable, "hub cannot be reached", "No connection to the hub came about; nothing was sent.", "Check that meshhub runs and that the address is right (`meshctl context show`)."},
	{CodeHandshake, Unauthenticated, "hub and client do not trust each other", "The TLS handshake was refused: the hub's certificate does not lead to the CA file, or the hub does not accept the client certificate.", "Check CA file, certificate and key (`meshctl context show`); certificates are valid for a limited time."},
	{CodeOutcomeUnknown, Unknown, "outcome unknown", "The connection was lost after the change was sent: it may or may not be committed.", "Run the printed command: with the same request id, the change is committed at most once."},
	{CodeNoInput, Invalid, "no resources given", "The files and directories named with -f hold no resource.", "Name files or directories with .yaml, .yml or .json files, or - for standard input."},
	{CodeOutputFormat, Invalid, "output format not known", "-o takes table, wide, json, yaml, name or jsonpath=EXPRESSION (RFC 9535).", "Like -o json or -o 'jsonpath=$.items[*].metadata.name'."},
	{CodeNoSuchKind, Invalid, "no such kind", "MeshKit has no resource or list of that name.", "`meshctl explain` lists every kind."},
	{CodeSelector, Invalid, "selector not valid", "A selector is a list of terms a=b, a!=b, a and !a, separated by commas.", "Like -l region=eu,tier!=test."},
	{CodeUnknownTopic, NotFound, "nothing known of that", "`explain` knows kinds, their fields, and error codes.", "`meshctl explain` lists every topic."},
	{CodeInterrupted, Canceled, "interrupted", "A signal ended the command. A change that had been sent may have been committed.", "`meshctl history` shows what was committed."},
	{CodeCredentials, Unauthenticated, "credentials cannot be used", "The CA file, client certificate or key cannot be read or do not fit each other.", "Check the paths in the context (`meshctl context show`) and the files' modes."},
	{CodeDemoPrograms, NotFound, "programs for the demo not found", "The demo runs meshhub and meshagent; they are neither beside meshctl nor on PATH, and this is no checkout to build them in.", "Put meshhub and meshagent beside meshctl, or run `go run ./cmd/meshctl demo` in the checkout."},
	{CodeDemoStep, Internal, "a step of the demo did not hold", "What the step promises was not seen.", "The lines above say what was seen, with the last lines of the logs."},
	{CodeDemoProcess, Internal, "a program of the demo ended", "meshhub or meshagent ended when it should have kept running.", "The last lines of its log are shown above."},
	{CodeDemoDirectory, Invalid, "demo directory cannot be used", "The demo needs a directory that is empty or does not exist yet, because it removes it at the end.", "Name another with --data, or leave the flag out."},
	{CodeNoSuchDomain, NotFound, "no such domain", "The hub that was asked serves no domain of that name.", "`meshctl get domains` lists those it serves; `meshctl context list` shows what other hubs there are."},
	{CodeUnexpectedReply, Internal, "answer cannot be used", "The hub or agent answered with something that this meshctl cannot read.", "Use the meshctl of the hub's version (`meshctl version`)."},
}
