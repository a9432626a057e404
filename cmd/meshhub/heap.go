package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// heapFloor is the heap, in bytes, below which the collector has nothing to do: a
// small domain's hub would collect its few megabytes many times in a second while
// it takes writes. Larger heaps are collected when they have doubled, as usual.
const heapFloor = 96 << 20

// keepHeapFloor sets the collector anew after each of its cycles. GOGC in the
// environment wins.
func keepHeapFloor() {
	if os.Getenv("GOGC") != "" {
		return
	}
	percent := 100
	var tune func(struct{})
	tune = func(struct{}) {
		live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
		metrics.Read(live)
		if p := collectAt(live[0].Value.Uint64()); p != percent {
			percent = p
			debug.SetGCPercent(p)
		}
		// The next cycle finds this unreachable.
		runtime.AddCleanup(new([64]byte), tune, struct{}{})
	}
	tune(struct{}{})
}

// collectAt gives the growth, in percent of the live heap, after which the collector
// runs again, in steps of ten.
func collectAt(live uint64) int {
	live = max(live, 4<<20)
	if 2*live >= heapFloor {
		return 100
	}
	return int(heapFloor*100/live-100) / 10 * 10
}
