package client

import (
	"context"
	"io"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/fault"
)

// Export writes a backup of the domain's log to w, as it comes: see package backup.
// What w got is one only if Export returns nil and package backup verifies it.
func (c *Client) Export(ctx context.Context, w io.Writer) error {
	return receive(ctx, c, c.store.Export, &adminv1.ExportRequest{}, func(r *adminv1.ExportResponse) error {
		if _, err := w.Write(r.GetData()); err != nil {
			return fault.New(fault.CodeIO, "write the backup: %w", err)
		}
		return nil
	})
}
