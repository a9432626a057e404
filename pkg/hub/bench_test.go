package hub_test

import (
	"fmt"
	"testing"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/hub/hubtest"
)

// BenchmarkApply applies n new resources, decoded, merged, validated, planned and
// committed, against a store in memory.
func BenchmarkApply(b *testing.B) {
	for _, n := range []int{1000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				h := hubtest.NewDomain(b).Start(b)
				o := operate(b, h)
				docs := make([][]byte, n)
				for i := range docs {
					docs[i] = cluster(fmt.Sprint("c", i), fmt.Sprintf("10.%d.%d.1:80", i/250, i%250))
				}
				b.StartTimer()
				if _, err := o.resources.Apply(b.Context(), &adminv1.ApplyRequest{Change: &adminv1.Change{Resources: docs}}); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				_ = h.Stop()
				b.StartTimer()
			}
		})
	}
}
