package main

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"github.com/scittd/scittd/internal/memory"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/storage"
	"github.com/scittd/scittd/witness"
)

// What the log's memory in a registry is found by.
const (
	memoryTag       = "scitt-log"
	memoryMediaType = "application/vnd.scittd.head+json"
)

// memoryFile is where the newest head is remembered; "": in no file.
func (c *Config) memoryFile() string {
	if c.Memory.File != "" || c.Database.URL != "" || c.Database.URLFile != "" || c.Keys.Receipt == "" {
		return c.Memory.File
	}
	return filepath.Join(filepath.Dir(c.Keys.Receipt), "head.json")
}

// outside is the memory of the log outside its database.
type outside struct {
	ledger *ledger.Ledger // what is held against it; set once that is open
	file   *memory.File
	others []memory.Memory
	guard  *memory.Guard
	log    *slog.Logger

	checked bool // the log is what was remembered; set before anything is served
}

// openOutside prepares the configured memories, and asks none yet.
func openOutside(c Config, checkpoint crypto.Signer, log *slog.Logger) (*outside, error) {
	o := &outside{log: log}
	if path := c.memoryFile(); path != "" {
		if err := checkMemoryFile(path); err != nil {
			return nil, err
		}
		o.file = &memory.File{Path: path}
	} else if c.Memory.Sync {
		return nil, fmt.Errorf("%w: memory.sync: there is no memory.file to wait for", errConfig)
	}
	var shelf memory.Shelf
	if c.Memory.Repository != "" {
		tag, err := openMemoryTag(c)
		if err != nil {
			return nil, fmt.Errorf("%w: memory.repository: %w", errConfig, err)
		}
		shelf, o.others = tag, append(o.others, memory.Shelved{Shelf: tag})
	}
	if c.Log.Witnesses != "" {
		p, err := readWitnesses(c)
		if err != nil {
			return nil, err
		}
		key, err := checkpointVerifier(c, checkpoint)
		if err != nil {
			return nil, err
		}
		for _, w := range p.Asked() {
			o.others = append(o.others, memoryOfWitness{w, key, o})
		}
	}
	o.guard = memory.NewGuard(o, memory.Options{File: o.file, Sync: c.Memory.Sync, Shelf: shelf, Veto: o.veto, Log: log})
	return o, nil
}

// checkMemoryFile refuses a file that could not be written: its folder is somebody
// else's volume, and made by nobody here.
func checkMemoryFile(file string) error {
	folder := filepath.Dir(file)
	info, err := os.Stat(folder)
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("%s is no folder", folder)
	}
	if err != nil {
		return fmt.Errorf("%w: memory.file: %w\nTry:   mkdir -p %s", errConfig, err, folder)
	}
	return nil
}

// String lists the memories.
func (o *outside) String() string {
	var all []string
	if o.file != nil {
		all = append(all, o.file.Name())
	}
	for _, m := range o.others {
		all = append(all, m.Name())
	}
	if all == nil {
		return "none: an old copy of the database would not be noticed; set memory.file or memory.repository"
	}
	return strings.Join(all, ", ")
}

// lag is how many entries some memory does not know of yet; readers have none.
func (o *outside) lag() uint64 {
	if o == nil {
		return 0
	}
	return o.guard.Lag()
}

// veto stops the signing: the log is not the one that was remembered.
func (o *outside) veto(why error) {
	o.log.Error("external memory vetoes: nothing is signed any more", "err", why)
	o.ledger.Halt(why)
}

// check holds an open log against what is remembered, before anything is signed.
func (o *outside) check(ctx context.Context, l *ledger.Ledger) error {
	o.ledger = l
	if o.file == nil && o.others == nil {
		o.log.Warn("no external memory", "remedy", "set memory.file or memory.repository, or an old copy of the database is not noticed")
	}
	err := memory.Check(ctx, o, o.file, o.others, func(m memory.Memory, err error) {
		o.log.Warn("external memory does not answer", "memory", m.Name(), "err", err)
	})
	switch {
	case errors.Is(err, memory.ErrRollback):
		return fmt.Errorf("%w\nTry:   restore a newer backup or promote a standby that has these entries; without them nobody can continue this log: run init in an empty folder and database to begin another, with a new origin and new keys", err)
	case errors.Is(err, memory.ErrUnheard):
		return fmt.Errorf("%w\nTry:   again once one of them is back", err)
	}
	return err
}

// begin tells the memories of the head that is there at start, once it is known
// to be the log's.
func (o *outside) begin(ctx context.Context) error {
	if o.file != nil {
		if err := o.file.Hold(); errors.Is(err, memory.ErrShared) {
			return fmt.Errorf("%w: memory.file: %w\nTry:   give every replica a file of its own, on a volume that is not the database's", errConfig, err)
		} else if err != nil {
			return fmt.Errorf("memory.file: %w", err)
		}
	}
	o.checked = true
	h, err := o.ledger.Head(ctx)
	if err != nil {
		return err
	}
	return o.remember(ctx, h)
}

// close lets another process remember in the file.
func (o *outside) close() error {
	if o == nil || o.file == nil {
		return nil
	}
	return o.file.Release()
}

// remember is what the ledger calls after a commit and before a checkpoint. The
// checkpoint that witnesses are shown at start is remembered by nobody yet: it
// may be that of the old copy which is looked for.
func (o *outside) remember(ctx context.Context, h ledger.Head) error {
	if !o.checked {
		return nil
	}
	if err := o.guard.Remember(ctx, h.SignedHead); err != nil {
		return fmt.Errorf("%w: external memory: %w", ledger.ErrUnavailable, err)
	}
	return nil
}

// What follows is the log as package memory sees it.

func (o *outside) Newest(ctx context.Context) (receipts.Head, error) {
	h, err := o.ledger.Head(ctx)
	return h.Head, err
}

func (o *outside) At(ctx context.Context, size uint64) (receipts.Head, bool, error) {
	heads, err := o.ledger.Heads(ctx, size-1, 1)
	if err != nil || len(heads) == 0 || heads[0].Size != size {
		return receipts.Head{}, false, err
	}
	return heads[0].Head, true, nil
}

func (o *outside) Grew(ctx context.Context, from, to uint64) error {
	_, err := o.ledger.Consistency(ctx, from, to)
	return err
}

func (o *outside) Keys() receipts.KeySet { return o.ledger.Keys() }

// memoryInRegistry is a tag that says which head is the newest.
type memoryInRegistry struct {
	name       string
	repository storage.Repository
}

// openMemoryTag opens the repository; it asks nobody yet.
func openMemoryTag(c Config) (*memoryInRegistry, error) {
	host, name, ok := strings.Cut(c.Memory.Repository, "/")
	if !ok {
		return nil, fmt.Errorf("%q is not host/name", c.Memory.Repository)
	}
	if c.embeddedRegistry() && host == c.registryHost() {
		return nil, fmt.Errorf("%s is the embedded registry, which is restored and lost together with the ledger: name another", host)
	}
	c.Registry.PlainHTTP = c.Registry.PlainHTTP && host == c.Registry.Host
	c.Registry.Host = host
	registry, err := remoteRegistry(c, nil)
	if err != nil {
		return nil, err
	}
	repository, err := registry.Repository(name)
	if err != nil {
		return nil, err
	}
	return &memoryInRegistry{c.Memory.Repository + ":" + memoryTag, repository}, nil
}

func (r *memoryInRegistry) Name() string { return "registry " + r.name }

func (r *memoryInRegistry) Get(ctx context.Context) ([]byte, error) {
	b, err := storage.GetTagged(ctx, r.repository, memoryTag, memoryMediaType)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, memory.ErrNothing
	}
	return b, err
}

func (r *memoryInRegistry) Put(ctx context.Context, b []byte) error {
	return storage.PutTagged(ctx, r.repository, memoryTag, memoryMediaType, b)
}

// memoryOfWitness is what a witness remembers of the log.
type memoryOfWitness struct {
	witness *witness.Witness
	key     note.Verifier // of the log's checkpoints
	log     *outside
}

func (w memoryOfWitness) Name() string { return "witness " + w.witness.Name() }

// Last asks for the checkpoint itself, which takes no signature of ours; who does
// not offer it is shown the newest one and says what size it remembers.
func (w memoryOfWitness) Last(ctx context.Context) (memory.Remembered, error) {
	if signed, err := w.witness.Latest(ctx, w.key); err == nil {
		c, err := readCheckpoint(signed, w.key.Name())
		if err != nil {
			return memory.Remembered{}, err
		}
		return memory.Remembered{Size: c.Size, Root: c.Root[:]}, nil
	}
	newest, err := w.log.ledger.Checkpoint(ctx)
	if err != nil {
		return memory.Remembered{}, err
	}
	size, err := w.witness.Size(ctx, newest)
	switch {
	case errors.Is(err, witness.ErrFork):
		return memory.Remembered{}, fmt.Errorf("%w: %w", memory.ErrRollback, err)
	case err != nil:
		return memory.Remembered{}, err
	case size == 0:
		return memory.Remembered{}, memory.ErrNothing
	}
	return memory.Remembered{Size: size}, nil
}
