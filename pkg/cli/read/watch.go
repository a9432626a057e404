package read

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/backoff"
	"github.com/meshkit/meshkit/pkg/cli/cliutil"
	"github.com/meshkit/meshkit/pkg/client"
	"github.com/meshkit/meshkit/pkg/fault"
)

// pollInterval is how often lists that the hub does not stream are read again.
const pollInterval = time.Second

// runWatch prints what there is, then every change, until interrupted.
// Resources are streamed by the hub; agents, hubs, domains and tokens are read
// once a second and printed when they differ.
func (o *getOptions) runWatch(cmd *cobra.Command) error {
	c, err := o.app.Connect()
	if err != nil {
		return err
	}
	defer c.Close()
	ctx := cmd.Context()
	if o.ref.List != "" && o.ref.List != cliutil.All {
		return o.poll(ctx, c)
	}
	if o.ref.Name != "" { // tell a wrong name at once, instead of waiting for it for ever
		if _, err := c.Get(ctx, cliutil.WireKey(o.ref.Key())); err != nil {
			return err
		}
	}
	pause := backoff.New(backoff.Policy{Base: 200 * time.Millisecond, Cap: 5 * time.Second})
	w := &watcher{o: o, seen: make(map[string]uint64)}
	for {
		err := c.Watch(ctx, o.selection(), func(e *adminv1.WatchResponse) error {
			pause.Reset()
			return w.event(ctx, e)
		})
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil && fault.KindOf(err) != fault.Unavailable {
			return err
		}
		o.app.IO.Notef("%s", wentAway(c.Hub()))
		if pause.Wait(ctx) != nil {
			return context.Cause(ctx)
		}
	}
}

// wentAway tells that a watch goes on with another connection.
func wentAway(hubs string) string {
	if strings.Contains(hubs, ",") {
		return "the hub went away; watching again at one of " + hubs
	}
	return "hub " + hubs + " went away; watching again"
}

// watcher is the state of one watch; one goroutine uses it.
type watcher struct {
	o *getOptions
	// seen is the version last printed of each resource, so that the present
	// state, sent again after a reconnect, is not printed again.
	seen    map[string]uint64
	synced  bool
	initial []*adminv1.Resource
	widths  []int // of the columns so far
}

func (w *watcher) event(ctx context.Context, e *adminv1.WatchResponse) error {
	if e.GetEvent() == adminv1.WatchResponse_EVENT_SYNCED {
		if w.synced {
			return nil
		}
		w.synced = true
		return w.printInitial(ctx)
	}
	r := e.GetResource()
	if w.o.ref.Name != "" && (r.GetName() != w.o.ref.Name || r.GetNamespace() != w.o.ref.Namespace) {
		return nil
	}
	key := r.GetKind() + "/" + r.GetNamespace() + "/" + r.GetName()
	gone := e.GetEvent() == adminv1.WatchResponse_EVENT_DELETE
	if !gone && w.seen[key] == r.GetResourceVersion() && r.GetResourceVersion() != 0 {
		return nil
	}
	w.seen[key] = r.GetResourceVersion()
	if gone {
		delete(w.seen, key)
	}
	if !w.synced {
		w.initial = append(w.initial, r)
		return nil
	}
	return w.print(ctx, e, r)
}

func (w *watcher) printInitial(ctx context.Context) error {
	if !w.o.format.Structured() {
		l, err := w.table(w.initial...)
		if err != nil {
			return err
		}
		l.Table.Columns = w.o.app.IO.Width
		err = l.Table.Write(w.o.app.IO.Out, true, func(h string) string { return w.o.app.IO.PaintOut(cliutil.Bold, h) })
		w.widths = l.Table.Widths
		return err
	}
	for _, r := range w.initial {
		if err := w.print(ctx, &adminv1.WatchResponse{Event: adminv1.WatchResponse_EVENT_UPSERT}, r); err != nil {
			return err
		}
	}
	w.initial = nil
	return nil
}

func (w *watcher) print(ctx context.Context, e *adminv1.WatchResponse, r *adminv1.Resource) error {
	gone := e.GetEvent() == adminv1.WatchResponse_EVENT_DELETE
	if w.o.format.Structured() {
		name := cliutil.Short(cliutil.KeyOf(&adminv1.Key{Kind: r.GetKind(), Namespace: r.GetNamespace(), Name: r.GetName()}))
		return w.o.app.IO.PrintLine(ctx, w.o.format, eventJSON(gone, e.GetSeq(), r), name)
	}
	if gone {
		w.o.app.IO.Outf("%s deleted (seq %d)", cliutil.Short(cliutil.KeyOf(&adminv1.Key{Kind: r.GetKind(), Namespace: r.GetNamespace(), Name: r.GetName()})), e.GetSeq())
		return nil
	}
	l, err := w.table(r)
	if err != nil {
		return err
	}
	l.Table.Widths, l.Table.Columns = w.widths, w.o.app.IO.Width
	err = l.Table.Write(w.o.app.IO.Out, false, nil)
	w.widths = l.Table.Widths
	return err
}

func (w *watcher) table(rs ...*adminv1.Resource) (*cliutil.Listing, error) {
	// a resource of any namespace may come later, under the same headings
	t := tables{now: w.o.app.Now(), wide: w.o.format.Name == "wide", namespaces: true}
	if w.o.ref.List == cliutil.All {
		return t.mixed(rs)
	}
	return t.resources(w.o.ref.Descriptor, rs...)
}

// eventJSON is one line of `get --watch -o json`.
func eventJSON(gone bool, seq uint64, r *adminv1.Resource) []byte {
	event, doc := "upsert", json.RawMessage("null")
	if gone {
		event = "delete"
	}
	if d, err := resourceJSON(r); err == nil {
		doc = d
	} else if d, err := json.Marshal(map[string]any{"kind": r.GetKind(), "metadata": map[string]string{"namespace": r.GetNamespace(), "name": r.GetName()}}); err == nil {
		doc = d // a deleted resource may come without its content
	}
	return fmt.Appendf(nil, `{"event":%q,"seq":%d,"resource":%s}`, event, seq, doc)
}

// poll prints a list whenever it differs from what was printed before.
func (o *getOptions) poll(ctx context.Context, c *client.Client) error {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	before := make(map[string]string)
	var widths []int
	first, away := true, false
	for {
		l, err := o.fetchOnce(ctx, c)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil && fault.KindOf(err) != fault.Unavailable:
			return err
		case err != nil && !away:
			o.app.IO.Notef("%s", wentAway(c.Hub()))
			away = true
		case err == nil:
			l.Table.Widths = widths
			if err := o.printChanged(ctx, l, before, first); err != nil {
				return err
			}
			widths, first, away = l.Table.Widths, false, false
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
	}
}

func (o *getOptions) fetchOnce(ctx context.Context, c *client.Client) (*cliutil.Listing, error) {
	ctx, cancel := o.app.Deadline(ctx)
	defer cancel()
	return o.fetch(ctx, c)
}

// printChanged prints the rows that are new or differ, and names what is gone.
// What merely ages is no difference.
func (o *getOptions) printChanged(ctx context.Context, l *cliutil.Listing, before map[string]string, headings bool) error {
	changed := &cliutil.Table{Headings: l.Table.Headings, Widths: l.Table.Widths, Columns: o.app.IO.Width}
	here := make(map[string]bool, len(l.Names))
	for i, name := range l.Names {
		here[name] = true
		doc := withoutClock(l.Items[i])
		if before[name] == doc {
			continue
		}
		before[name] = doc
		if o.format.Structured() {
			if err := o.app.IO.PrintLine(ctx, o.format, l.Items[i], name); err != nil {
				return err
			}
			continue
		}
		changed.Rows = append(changed.Rows, l.Table.Rows[i])
	}
	for name := range before {
		if !here[name] {
			delete(before, name)
			if !o.format.Structured() {
				o.app.IO.Outf("%s is gone", strings.TrimSpace(name))
			}
		}
	}
	if len(changed.Rows) == 0 && !headings || o.format.Structured() {
		return nil
	}
	err := changed.Write(o.app.IO.Out, headings, func(h string) string { return o.app.IO.PaintOut(cliutil.Bold, h) })
	l.Table.Widths = changed.Widths
	return err
}

func withoutClock(doc json.RawMessage) string {
	var m map[string]any
	if json.Unmarshal(doc, &m) != nil {
		return string(doc)
	}
	delete(m, "lastSeen")
	delete(m, "seq")
	data, err := json.Marshal(m)
	if err != nil {
		return string(doc)
	}
	return string(data)
}
