package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/jackc/pgx/v5"

	"github.com/scittd/scittd/ledger"
)

// profileOf takes our own parameter out of those that config sends to a server,
// and says whether it asks for the portable profile: profile=portable in a DSN
// is for engines that speak PostgreSQL but are not it.
//
// The schema then goes without its tuning, migrations wait at a row instead of
// an advisory lock, every transaction is SERIALIZABLE, and of the settings that make PostgreSQL durable only those are looked at that
// the server has. All promises stay: none of them rests on what is left out.
func profileOf(config *pgx.ConnConfig) (portable bool, err error) {
	profile := config.RuntimeParams["profile"]
	delete(config.RuntimeParams, "profile")
	switch profile {
	case "", "postgres":
		return false, nil
	case "portable":
		config.RuntimeParams["default_transaction_isolation"] = "serializable"
		return true, nil
	}
	return false, &refusal{fmt.Sprintf("profile=%s in the database URL is neither postgres nor portable", profile)}
}

// untuned is a folder of migrations without the lines that end in "-- tuning":
// how PostgreSQL should lay a table out, which changes no answer.
type untuned struct{ fs.FS }

func (u untuned) Open(name string) (fs.File, error) {
	f, err := u.FS.Open(name)
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err != nil || info.IsDir() {
		return f, err
	}
	text, err := io.ReadAll(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	var left bytes.Buffer
	for line := range bytes.Lines(text) {
		if !bytes.HasSuffix(bytes.TrimSpace(line), []byte("-- tuning")) {
			left.Write(line)
		}
	}
	return edited{f, &left}, nil
}

// edited is a file with other content.
type edited struct {
	fs.File
	content io.Reader
}

func (e edited) Read(p []byte) (int, error) { return e.content.Read(p) }

// waitApart is wait where all statements of a transaction see what was there at
// its beginning: who has waited for a lock sees nothing new behind it. So the
// second look is another transaction's, and when it finds a newer head the wait
// begins again.
func (t *turn) waitApart(ctx context.Context) error {
	for {
		var locked uint64
		var q pgx.Batch
		q.Queue(`BEGIN`)
		q.Queue(lockNewest).QueryRow(func(row pgx.Row) error { return row.Scan(&locked) })
		err := t.conn.SendBatch(ctx, &q).Close()
		if err == nil {
			t.head, err = t.store.Head(ctx)
		}
		if err == nil && t.head.Size == locked {
			return nil
		}
		if _, undone := t.conn.Exec(ctx, `ROLLBACK`); undone != nil && (err == nil || yielded(err)) {
			err = undone
		}
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return ledger.ErrEmpty
		case err != nil && !yielded(err) && ctx.Err() == nil && (t.conn.Conn().IsClosed() || passing(err)):
			return unavailable(err)
		case err != nil && !yielded(err):
			return err
		}
	}
}
