package change

import "testing"

func TestOwnedFieldsAreFoundByTheKeysOfListEntries(t *testing.T) {
	const content = `{"spec":{"rules":[{"name":"pay"},{"name":"default","clusters":[{"name":"v1"}],"tags":["a","b"]}],"ports":[{"port":80,"proto":"tcp"},{"port":80,"proto":"udp"}]}}`
	for field, want := range map[string]string{
		"spec.rules[name=default].clusters[name=v1].weight": "spec.rules[1].clusters[0].weight",
		"spec.rules[name=default].tags[=b]":                 "spec.rules[1].tags[1]",
		"spec.ports[port=80][proto=udp].x":                  "spec.ports[1].x",
		"spec.rules[name=gone].clusters":                    "spec.rules",
		"spec.rules[name=pay":                               "spec.rules",
		"spec.rules[1].clusters":                            "spec.rules[1].clusters",
	} {
		if got := indexed(field, []byte(content)); got != want {
			t.Errorf("indexed(%q) = %q, want %q", field, got, want)
		}
	}
}
