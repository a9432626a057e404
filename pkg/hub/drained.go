package hub

import (
	"context"

	"github.com/meshkit/meshkit/pkg/state"
)

// followDrain sends the streams away when an operator has drained this hub, and
// takes streams again when it is undrained. Leadership is the replica's part.
func (h *Hub) followDrain(ctx context.Context) error {
	away := false
	for {
		cur, changed := h.replica.Watch()
		if cur != nil {
			switch drained := isDrained(cur.State, h.opt.Name); {
			case drained && !away:
				h.log.Info("drained: streams are sent to other hubs")
				h.streams.SendAway(h.otherHubs())
			case !drained && away:
				h.log.Info("undrained: streams are taken again")
				h.streams.TakeBack()
			}
			away = isDrained(cur.State, h.opt.Name)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

func isDrained(s *state.State, hub string) bool {
	x, _ := s.Hub(hub)
	return x.GetDrained()
}
