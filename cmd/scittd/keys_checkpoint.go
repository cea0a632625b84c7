package main

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"text/tabwriter"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/statement"
)

// rotateCheckpoint announces the checkpoint key in a file, which is made when
// there is none.
func rotateCheckpoint(ctx context.Context, p process, c Config, o *operator, file string) error {
	if file == "" {
		file = filepath.Join(filepath.Dir(c.Keys.Checkpoint), "checkpoint-next.pem")
	}
	key, err := keyFile(file, newEd25519Key)
	if err != nil {
		return fmt.Errorf("new checkpoint key: %w", err)
	}
	vkey, err := vkeyOf(c, file, key)
	if err != nil {
		return err
	}
	entry, err := o.announceCheckpoint(ctx, vkey)
	if err != nil {
		return err
	}
	fmt.Fprintf(p.stdout, `Announced       entry %s
Checkpoint key  %s  (give it to witnesses and auditors)
Next:           set keys.checkpoint to %s and restart each replica; until then it signs with the old key
`, entry, vkey, file)
	return nil
}

// announceCheckpoint registers a service statement that names a checkpoint key
// first, and the log's keys as they are.
func (o *operator) announceCheckpoint(ctx context.Context, vkey string) (statement.ID, error) {
	svc, _, err := o.announced(ctx)
	if err != nil {
		return statement.ID{}, err
	}
	if slices.Contains(svc.CheckpointKeys, vkey) {
		return statement.ID{}, fmt.Errorf("%w: checkpoint key %s is announced already\nTry:   scittd keys list --checkpoint", errConfig, vkey)
	}
	svc.CheckpointKeys = slices.Insert(slices.Clone(svc.CheckpointKeys[:min(1, len(svc.CheckpointKeys))]), 0, vkey)
	return o.announceService(ctx, svc)
}

// announced is what the service says about itself, as far as this configuration
// agrees: with the current receipt key, and all that it ever had beside it.
func (o *operator) announced(ctx context.Context) (svc ledger.Service, keys receipts.KeySet, err error) {
	facts, err := o.service.Service(ctx)
	if err != nil {
		return svc, nil, err
	}
	if keys, err = o.service.Keys(ctx); err != nil {
		return svc, nil, err
	}
	if facts.URL != o.config.URL || facts.Origin != o.config.Origin {
		return svc, nil, fmt.Errorf("%w: configured as %s (%s), but %s serves %s (%s)", errConfig, o.config.URL, o.config.Origin, o.service.URL(), facts.URL, facts.Origin)
	}
	svc = ledger.Service{Version: 1, URL: facts.URL, Origin: facts.Origin, LeafRule: ledger.LeafRule, CheckpointKeys: facts.CheckpointKeys}
	for _, k := range keys[:min(1, len(keys))] {
		b, err := k.Marshal()
		if err != nil {
			return svc, nil, err
		}
		svc.ReceiptKeys = append(svc.ReceiptKeys, b)
	}
	return svc, keys, nil
}

// announceService registers it.
func (o *operator) announceService(ctx context.Context, svc ledger.Service) (statement.ID, error) {
	payload, err := json.Marshal(svc)
	if err != nil {
		return statement.ID{}, err
	}
	return o.register(ctx, policy.ServiceSubject, policy.ServiceMediaType, payload)
}

// listCheckpoint lists the checkpoint keys that the log announced, the newest
// first. Who signs none takes that one for current.
func listCheckpoint(p process, c Config, l *ledger.Ledger) error {
	own := ""
	if !c.ReadOnly {
		key, err := openCheckpointKey(c)
		if err != nil {
			return fmt.Errorf("%w: %w", errConfig, err)
		}
		if own, err = vkeyOf(c, c.Keys.Checkpoint, key); err != nil {
			return err
		}
	}
	table := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "KEY\tSTATE\tFILE")
	keys := l.CheckpointKeys()
	signs := max(0, slices.Index(keys, own))
	for i, vkey := range keys {
		at := ""
		if vkey == own {
			at = c.Keys.Checkpoint
		}
		fmt.Fprintf(table, "%s\t%s\t%s\n", vkey, keyState(i, signs), at)
	}
	return table.Flush()
}
