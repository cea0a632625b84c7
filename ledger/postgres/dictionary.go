package postgres

import (
	"bytes"
	"crypto/sha256"
	"slices"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// dictionary is one of the tables issuers, media_types and predicate_types:
// texts that repeat, with their ids as far as this process has met them.
type dictionary struct {
	table string

	mu  sync.Mutex // held for a lookup, never across a query
	ids map[[32]byte]int32
}

// known is how many ids are kept; beyond that all are forgotten and met again.
const known = 1 << 16

func newDictionary(table string) *dictionary {
	return &dictionary{table: table, ids: map[[32]byte]int32{}}
}

func (d *dictionary) id(hash [32]byte) (int32, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	id, ok := d.ids[hash]
	return id, ok
}

// learn remembers ids that are known to be committed: what a rolled back
// transaction gave out may be given to another text.
func (d *dictionary) learn(ids map[[32]byte]int32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.ids)+len(ids) > known {
		clear(d.ids)
	}
	for hash, id := range ids {
		d.ids[hash] = id
	}
}

// words are the texts of one batch, a row each: the id where it is known, else
// the hash to look up in the same transaction; neither for "".
type words struct {
	*dictionary
	ids    []pgtype.Int4
	hashes [][]byte
	fresh  map[[32]byte]string
	met    map[[32]byte]int32 // ids of fresh, to be learned once committed
}

func (d *dictionary) words(n int) *words {
	return &words{
		dictionary: d,
		ids:        make([]pgtype.Int4, 0, n),
		hashes:     make([][]byte, 0, n),
		fresh:      map[[32]byte]string{},
		met:        map[[32]byte]int32{},
	}
}

func (w *words) add(text string) {
	var id pgtype.Int4
	var lookup []byte
	if text != "" {
		hash := sha256.Sum256([]byte(text))
		if id.Int32, id.Valid = w.id(hash); !id.Valid {
			lookup = hash[:]
			w.fresh[hash] = text
		}
	}
	w.ids, w.hashes = append(w.ids, id), append(w.hashes, lookup)
}

// queue adds what is fresh to the table, before the rows that refer to it.
// Another process may be adding the same: equal order, so that the two wait for
// each other in one direction only.
func (w *words) queue(b *pgx.Batch) {
	if len(w.fresh) == 0 {
		return
	}
	hashes := make([][]byte, 0, len(w.fresh))
	for hash := range w.fresh {
		hashes = append(hashes, hash[:])
	}
	slices.SortFunc(hashes, bytes.Compare)
	texts := make([]string, len(hashes))
	for i, hash := range hashes {
		texts[i] = w.fresh[[32]byte(hash)]
	}
	b.Queue(`INSERT INTO `+w.table+` (sha256, text)
		SELECT * FROM unnest($1::bytea[], $2::text[]) ON CONFLICT (sha256) DO NOTHING`, hashes, texts)
	b.Queue(`SELECT id, sha256 FROM `+w.table+` WHERE sha256 = ANY($1::bytea[])`, hashes).
		Query(func(rows pgx.Rows) error {
			var id int32
			var hash []byte
			_, err := pgx.ForEachRow(rows, []any{&id, &hash}, func() error {
				w.met[[32]byte(hash)] = id
				return nil
			})
			return err
		})
}

// fresh says whether any of them has words that this process has not met.
func fresh(all ...*words) bool {
	return slices.ContainsFunc(all, func(w *words) bool { return len(w.fresh) > 0 })
}
