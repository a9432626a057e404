package kind_test

import (
	"fmt"

	"github.com/meshkit/meshkit/pkg/kind"
	"github.com/meshkit/meshkit/pkg/resource"
)

func ExampleDecode() {
	text := `apiVersion: meshkit.dev/v1
kind: Route
metadata:
  name: checkout
spec:
  service: checkout
  timeuot: 2s
  rules:
    - name: canary
      clusters:
        - {name: checkout-v1, weight: 90}
        - {name: checkout-v2, weight: 20%}
---
apiVersion: meshkit.dev/v1
kind: Cluster
metadata:
  name: checkout-v1
spec:
  endpoints:
    - address: 10.0.0.7:8080
`
	documents, findings := kind.Decode("mesh.yaml", []byte(text), resource.DefaultLimits())
	for _, f := range findings {
		fmt.Println(f)
	}
	for _, d := range documents {
		fmt.Printf("%s\n", d.Content)
	}
	// Output:
	// mesh.yaml:7:3: error MK2005: Route/default/checkout spec.timeuot: unknown field "timeuot" in spec (did you mean timeout?)
	// mesh.yaml:12:39: error MK2008: Route/default/checkout spec.rules[0].clusters[1].weight: expected number, got text "20%" (write 20, without the percent sign)
	// {"apiVersion":"meshkit.dev/v1","kind":"Cluster","metadata":{"name":"checkout-v1","namespace":"default"},"spec":{"endpoints":[{"address":"10.0.0.7:8080"}]}}
}
