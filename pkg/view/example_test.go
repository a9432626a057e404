package view_test

import (
	"fmt"

	"github.com/meshkit/meshkit/pkg/graph"
	"github.com/meshkit/meshkit/pkg/view"
)

func ExampleBuild() {
	g, _ := graph.New().Update([]graph.Change{
		write("Cluster", "a", `{"endpoints":[{"address":"10.0.0.7:8080"}]}`),
		write("Cluster", "b", `{"endpoints":[{"address":"10.0.0.8:8080"}]}`),
		write("Route", "r", `{"service":"s","rules":[{"name":"all","clusters":[{"name":"a"}],"mirror":{"cluster":"b"}}]}`),
	})
	v := view.Build(g, view.ClassOf(g, []string{"core/v1"}, map[string]string{"region": "eu"}))
	fmt.Println(v.Trie.Len(), v.Required)
	for _, d := range v.Downlevels() {
		fmt.Println(d.Key, d.Withheld, d.Reason)
	}
	// Output:
	// 3 [core/v1]
	// Route/default/r false spec.rules[0].mirror is left out: the node does not support mirror/v1
}
