package distribution

import (
	"runtime"
	"sync"
)

// senders write to streams: a few goroutines for all of a server's, which exist only
// while a stream has something to send. A change for thousands of streams then needs
// no goroutine for each of them. No send of theirs blocks; see writer.run.
type senders struct {
	busy sync.WaitGroup

	mu      sync.Mutex // guards all below
	queue   []*stream  // from at on: streams whose writer is to run, each at most once
	at      int
	running int
}

// sendBatch is how many streams a sender takes at once.
const sendBatch = 16

// put has st's writer run. It never blocks.
func (s *senders) put(st *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue = append(s.queue, st)
	if s.running < runtime.GOMAXPROCS(0) {
		s.running++
		s.busy.Go(s.run)
	}
}

// run runs writers until none is left.
func (s *senders) run() {
	var batch [sendBatch]*stream
	for {
		n := s.take(batch[:])
		if n == 0 {
			return
		}
		for _, st := range batch[:n] {
			st.writer.run()
		}
	}
}

// take moves streams from the queue to batch. When it gives 0 the sender is over.
func (s *senders) take(batch []*stream) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := copy(batch, s.queue[s.at:])
	clear(s.queue[s.at : s.at+n])
	s.at += n
	if s.at == len(s.queue) {
		s.queue, s.at = s.queue[:0], 0
	}
	if n == 0 {
		s.running--
	}
	return n
}

// wait waits until all senders are over. Nothing is put any more.
func (s *senders) wait() { s.busy.Wait() }
