package trust

import (
	"context"

	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/sign"
)

// BackupType is the payload type of the envelope that ends a backup.
const BackupType = "application/vnd.meshkit.backup.v1+protobuf"

// SignBackup signs what a backup holds.
func SignBackup(ctx context.Context, s *sign.Signer, b *trustv1.Backup) (*trustv1.Envelope, error) {
	return seal(ctx, s, BackupType, b)
}

// VerifyBackup checks that a listed hub key signed b for this domain. It does not
// judge time: a backup is old by nature, and so may be its keyset. For the codes see
// VerifyManifest.
func (a *Anchors) VerifyBackup(env *trustv1.Envelope) (*trustv1.Backup, HubKey, error) {
	b := &trustv1.Backup{}
	hub, err := a.open(env, BackupType, b)
	if err != nil {
		return nil, hub, err
	}
	if err := a.checkPlace(hub, b.Domain, b.KeysetVersion); err != nil {
		return nil, hub, err
	}
	if len(b.HeadHash) != digestBytes || len(b.Sha256) != digestBytes || b.CreatedAt.CheckValid() != nil {
		return nil, hub, fault.New(fault.CodeManifestInvalid, "what hub %q signed says neither where the backup ends nor when it was made", hub.Hub)
	}
	return b, hub, nil
}
