package graph_test

import (
	"fmt"

	"github.com/meshkit/meshkit/pkg/graph"
)

func ExampleGraph_Update() {
	g, _ := graph.New().Update([]graph.Change{
		write("Cluster", "payments", `{"endpoints":[{"address":"10.0.0.7:8080"}]}`),
	})
	_, findings := g.Update([]graph.Change{
		write("Route", "checkout", `{"service":"checkout","rules":[{"name":"all","clusters":[{"name":"paymnts"}]}]}`),
	})
	for _, f := range findings {
		fmt.Println(f.Code, f.Field)
		fmt.Println(f.Reason)
		fmt.Println(f.Remedy)
	}
	// Output:
	// MK2401 spec.rules[0].clusters[0].name
	// Cluster/default/paymnts does not exist
	// did you mean payments? Otherwise create Cluster/default/paymnts in the same change
}
