package main

import "testing"

func TestASmallHeapIsCollectedAtTheFloorAndALargeOneWhenItHasDoubled(t *testing.T) {
	for live, want := range map[uint64]int{0: 2300, 8 << 20: 1100, 45 << 20: 110, 48 << 20: 100, 200 << 20: 100} {
		if got := collectAt(live); got != want {
			t.Errorf("with %d MiB alive the heap grows by %d%%, want %d%%", live>>20, got, want)
		}
	}
}
