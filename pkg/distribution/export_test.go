package distribution

// Bounds and times that tests of a server from outside go to.
const (
	EndGrace        = endGrace
	MinRetry        = minRetry
	MaxNodeStreams  = maxNodeStreams
	MaxCapabilities = maxCapabilities
	MaxText         = maxText
	MaxMessage      = maxMessage
	ResyncBurst     = resyncBurst
	Window          = window
	Answers         = answers
	OwedMost        = owedMost
)

// Writing gives the number of nodes whose writer runs.
func (s *Server) Writing() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range s.nodes {
		st.mu.Lock()
		if st.running {
			n++
		}
		st.mu.Unlock()
	}
	return n
}
