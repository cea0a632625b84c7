package main

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/mod/sumdb/note"

	"github.com/scittd/scittd/api"
	"github.com/scittd/scittd/api/apitype"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/witness"
)

// cosignedName is the file in data.dir that keeps the newest cosigned checkpoint
// across restarts. It may be lost: the witnesses answer again.
const cosignedName = "cosigned.checkpoint"

// readWitnesses reads the configured policy.
func readWitnesses(c Config) (*witness.Policy, error) {
	text, err := os.ReadFile(c.Log.Witnesses)
	if err != nil {
		return nil, fmt.Errorf("%w: log.witnesses: %w", errConfig, err)
	}
	p, err := witness.ParsePolicy(text)
	if err != nil {
		return nil, fmt.Errorf("%w: log.witnesses: %s: %w", errConfig, c.Log.Witnesses, err)
	}
	return p, nil
}

// openCosigner prepares asking the configured witnesses.
func (s *service) openCosigner(c Config, checkpoint crypto.Signer) error {
	if c.Log.Witnesses == "" {
		return nil
	}
	p, err := readWitnesses(c)
	if err != nil {
		return err
	}
	verifier, err := checkpointVerifier(c, checkpoint)
	if err != nil {
		return err
	}
	s.cosigner, err = witness.NewCosigner(witnessedLog{s.ledger}, verifier, p, witness.CosignerOptions{
		Every: c.Cadence, File: filepath.Join(c.Data.Dir, cosignedName), Log: s.log,
	})
	if err != nil {
		return fmt.Errorf("%w: log.witnesses: %w", errConfig, err)
	}
	return nil
}

// checkpointVerifier verifies what the key signs.
func checkpointVerifier(c Config, key crypto.Signer) (note.Verifier, error) {
	vkey, err := vkeyOf(c, c.Keys.Checkpoint, key)
	if err != nil {
		return nil, err
	}
	return note.NewVerifier(vkey)
}

// vkeyOf is the verifier key of a checkpoint key, which was read from file.
func vkeyOf(c Config, file string, key crypto.Signer) (string, error) {
	public, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		return "", fmt.Errorf("%w: checkpoint key %s: not an Ed25519 key", errConfig, file)
	}
	vkey, err := note.NewEd25519VerifierKey(c.Origin, public)
	if err != nil {
		return "", fmt.Errorf("%w: checkpoint key: %w", errConfig, err)
	}
	return vkey, nil
}

// checkpoint is where the published checkpoint comes from.
func (s *service) checkpoint() func(context.Context) ([]byte, error) {
	if s.cosigner != nil {
		return s.cosigner.Checkpoint
	}
	return s.ledger.Checkpoint
}

// witnesses is what the API shows of them; nil when none are configured.
func (s *service) witnesses() api.Witnesses {
	if s.cosigner == nil {
		return nil
	}
	return cosigned{s.cosigner}
}

// witnessedLog is the ledger as witnesses see it.
type witnessedLog struct{ *ledger.Ledger }

func (l witnessedLog) Consistency(ctx context.Context, from, to uint64) ([][]byte, error) {
	c, err := l.Ledger.Consistency(ctx, from, to)
	if errors.Is(err, ledger.ErrNotFound) {
		return nil, fmt.Errorf("%w: %w", witness.ErrFork, err)
	}
	return c.Path, err
}

// cosigned is the Cosigner in the API's terms.
type cosigned struct{ *witness.Cosigner }

func (c cosigned) Cosigned() apitype.Cosigned {
	s := c.Status()
	all := apitype.Cosigned{Size: s.Size, Witnesses: make([]apitype.Witness, len(s.Witnesses))}
	for i, w := range s.Witnesses {
		all.Witnesses[i] = apitype.Witness{Name: w.Name, State: w.State, Size: w.Size, Since: w.Since.UTC()}
	}
	return all
}
