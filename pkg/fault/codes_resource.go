package fault

// Codes of reading resources (MK20xx) and of rules within one resource (MK21xx).
const (
	CodeSyntax           Code = "MK2001"
	CodeEncoding         Code = "MK2002"
	CodeControlCharacter Code = "MK2003"
	CodeDuplicateKey     Code = "MK2004"
	CodeUnknownField     Code = "MK2005"
	CodeUnknownKind      Code = "MK2006"
	CodeAPIVersion       Code = "MK2007"
	CodeWrongType        Code = "MK2008"
	CodeRequired         Code = "MK2009"
	CodeEnum             Code = "MK2010"
	CodeRange            Code = "MK2011"
	CodeFormat           Code = "MK2012"
	CodeExpansion        Code = "MK2013"
	CodeYAMLFeature      Code = "MK2014"
	CodeTooLarge         Code = "MK2015"
	CodeTooMany          Code = "MK2016"
	CodeListKind         Code = "MK2017"
	CodeLabel            Code = "MK2018"
	CodeDuplicate        Code = "MK2019"
	CodeNothing          Code = "MK2020"
	CodeNoValue          Code = "MK2021"
	CodeMoreFindings     Code = "MK2022"
	CodeResourceKey      Code = "MK2023"
	CodeResourceContent  Code = "MK2024"
	CodeSingleton        Code = "MK2025"

	CodeRuleWeights   Code = "MK2101"
	CodeDuplicateItem Code = "MK2102"
	CodeRegex         Code = "MK2103"
	CodeEmptyMatch    Code = "MK2104"
	CodeExclusive     Code = "MK2105"
	CodeOneOf         Code = "MK2106"
	CodeInconsistent  Code = "MK2107"
	CodeSelfReference Code = "MK2108"
	CodeNoEffect      Code = "MK2109"
)

var resourceCodes = []Entry{
	{CodeSyntax, Invalid, "not valid YAML or JSON", "The text cannot be parsed. Common causes are a wrong indentation, a tab used for indentation, a missing colon, and an unclosed quote or bracket.", "Look at the named line and the one above it; indent with spaces."},
	{CodeEncoding, Invalid, "not UTF-8 text", "Resource and configuration files are UTF-8, optionally with a byte order mark. The file holds bytes that are not, or is UTF-16 or binary.", "Save the file as UTF-8, for example with `iconv -t UTF-8`."},
	{CodeControlCharacter, Invalid, "control character", "A control, bidirectional-override or invisible character stands in the text. Such characters can hide what a name or value really is, and can act on the terminal that shows it.", "Delete the character; it is shown escaped, like \\u202e."},
	{CodeDuplicateKey, Invalid, "key given twice", "A mapping names the same key twice, so that one of the two values would silently win.", "Remove one of the two; the finding names the line of the first."},
	{CodeUnknownField, Invalid, "unknown field", "The kind has no field of this name at this place, so the value would have no effect. A spelling mistake or a wrong indentation is the usual cause.", "Use the suggested name, or list the fields with `meshctl explain KIND.path`."},
	{CodeUnknownKind, Invalid, "unknown kind", "No kind of this name is known to this build.", "Use the suggested kind; `meshctl explain` lists them all."},
	{CodeAPIVersion, Invalid, "wrong apiVersion", "Every resource starts with the API version that it is written for, and this build knows only one.", "Write `apiVersion: meshkit.dev/v1`."},
	{CodeWrongType, Invalid, "wrong type", "The value has another type than the field: a number where text is wanted, text where a list is wanted, and the like. Unquoted yes, no, on and off are text, not booleans.", "Write a value of the type that the finding names; quote text that looks like a number or a boolean."},
	{CodeRequired, Invalid, "required field missing", "The field has no default and must be set.", "Add the field; `meshctl explain KIND.path` describes it."},
	{CodeEnum, Invalid, "value not in the list", "The field takes one of a fixed list of values.", "Use one of the values that the finding lists."},
	{CodeRange, Invalid, "out of range", "A number, duration, text or list is smaller or larger than the field permits.", "Use a value within the range that the finding names."},
	{CodeFormat, Invalid, "wrong format", "The text does not have the form that the field takes, like a name, a duration or host:port.", "Write it like the example in the finding."},
	{CodeExpansion, Exhausted, "nested or expanded too far", "The document is nested too deeply, has too many values, or its aliases expand to too many, as in a YAML bomb. It is refused before it is expanded.", "Flatten the document, or split it into several resources."},
	{CodeYAMLFeature, Invalid, "YAML feature not accepted", "Merge keys (<<), custom and binary tags, keys that are not plain text, and directives other than %YAML are refused, since readers disagree on what they mean.", "Write the fields out in full, without tags."},
	{CodeTooLarge, Exhausted, "too large", "A resource, document or request is larger than its limit.", "Split the resource, or apply the files in several requests; `meshctl explain DomainSettings.spec.limits` names the limits of a domain."},
	{CodeTooMany, Exhausted, "too many resources", "One request holds more resources than are accepted at once.", "Apply the files in several requests."},
	{CodeListKind, Invalid, "List is not a resource", "A `kind: List` wraps several resources in one; their positions and ownership would be lost.", "Write the items as documents of their own, separated by lines of `---`."},
	{CodeLabel, Invalid, "label or annotation not valid", "Label and annotation keys are an optional DNS prefix and '/', then a name of at most 63 letters, digits, '-', '_' and '.'. Label values have at most 63 of the same characters.", "Correct the key or value, or move free text to an annotation."},
	{CodeDuplicate, Invalid, "resource given twice", "Two documents of one request have the same kind, namespace and name.", "Remove or rename one; the finding names the place of the first."},
	{CodeNothing, Invalid, "no resource in the file", "The file holds no document, only comments or separators.", "Check the path; remove the file if it is meant to be empty."},
	{CodeNoValue, Invalid, "field without a value", "The field is there but has no value (null), which could mean either its default or its removal.", "Give it a value, or delete the line."},
	{CodeMoreFindings, Invalid, "more findings", "There are more findings than are shown at once.", "Mend those that are shown and run it again."},
	{CodeResourceKey, Invalid, "not a resource key", "A resource is named by Kind/namespace/name.", "Write it like Route/default/checkout."},
	{CodeResourceContent, Corrupt, "resource content not readable", "Stored or received content is not the canonical JSON of a resource.", "The sender or the store is at fault; compare versions with `meshctl version` and verify the log with the hub's own checks."},
	{CodeSingleton, Invalid, "wrong name for a singleton", "There is only one resource of this kind in a domain, with a fixed name and namespace.", "Use the name and namespace that the finding gives."},

	{CodeRuleWeights, Invalid, "weights do not sum to 100", "The clusters of a rule share its requests; their weights are percentages and must sum to 100.", "Change the weights so that they sum to 100; 0 keeps a cluster listed without requests."},
	{CodeDuplicateItem, Invalid, "item given twice", "A list names the same thing twice.", "Remove or rename one; the finding names the index of the first."},
	{CodeRegex, Invalid, "regular expression not valid", "The expression is not valid RE2, or compiles to a program that is too large. RE2 has no look-around and no back-references.", "Correct or shorten the expression; see https://github.com/google/re2/wiki/Syntax."},
	{CodeEmptyMatch, Invalid, "match without a condition", "The match is there but holds no condition, so it is not clear whether everything or nothing is meant.", "Add a condition, or remove `match` to take every request."},
	{CodeExclusive, Invalid, "fields exclude each other", "Two fields are set of which only one can have effect.", "Keep one of them."},
	{CodeOneOf, Invalid, "one field must be set", "None of the fields is set of which at least one is needed.", "Set one of the fields that the finding names."},
	{CodeInconsistent, Invalid, "values contradict each other", "Two values are each permitted but not together, like a try that may take longer than the whole request.", "Change one of the two values."},
	{CodeSelfReference, Invalid, "resource refers to itself", "The reference leads back to the resource that holds it, or copies requests to the cluster that already gets them.", "Name another resource, or remove the reference."},
	{CodeNoEffect, Invalid, "setting without effect", "The field is valid but can have no effect beside the others.", "Remove it, or change the field that disables it."},
}
