package postgres

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/scittd/scittd/internal/failpoint"
	"github.com/scittd/scittd/ledger"
)

// Commit sends the whole batch in one round trip and without BEGIN or COMMIT:
// up to the one Sync message at its end the server runs it as one implicit
// transaction, which an error ends at once. With an explicit pair, an error
// would skip the COMMIT and leave a failed transaction open on the connection.
//
// A batch that had to yield is sent again as it is: when the log has moved
// meanwhile, its head says so.
//
// The head goes first. Its insert is the compare-and-swap; whoever comes second
// waits for it, or for the head that both follow, before doing any work, and fails
// in the server.
func (s *Store) Commit(ctx context.Context, b *ledger.Batch) error {
	err := again(ctx, func() error {
		w, err := s.write(b)
		if err != nil {
			return err
		}
		conn, err := s.commits.acquire(ctx)
		if err != nil {
			return err
		}
		defer conn.Release()
		return s.send(ctx, conn, w)
	})
	if err != nil {
		return fmt.Errorf("commit at size %d: %w", b.Head.PrevSize, err)
	}
	return nil
}

// writes are the rows of a batch on their way to the server, and what they teach
// this process, once they are committed.
type writes struct {
	pgx.Batch
	learn []func()
}

// write makes the rows of b.
func (s *Store) write(b *ledger.Batch) (*writes, error) {
	if err := fits(b); err != nil {
		return nil, err
	}
	issuers := s.issuers.words(len(b.Entries))
	mediaTypes := s.mediaTypes.words(len(b.Entries))
	predicateTypes := s.predicateTypes.words(len(b.Entries))
	for _, e := range b.Entries {
		issuers.add(e.Issuer)
		mediaTypes.add(e.MediaType)
		predicateTypes.add(e.PredicateType)
	}

	w := &writes{}
	q := &w.Batch
	if fresh(issuers, mediaTypes, predicateTypes) {
		// Those who add the same word wait here, and not for each other there.
		q.Queue(`SELECT FROM heads WHERE size = $1 FOR UPDATE`, int64(b.Head.PrevSize))
	}
	for _, words := range []*words{issuers, mediaTypes, predicateTypes} {
		words.queue(q)
		w.learn = append(w.learn, func() { words.dictionary.learn(words.met) })
	}
	audit := s.accounts.tell(b.Entries)
	queueLog(q, b, issuers, mediaTypes, predicateTypes, audit)
	audit.queue(q)
	w.learn = append(w.learn, audit.learn)
	queueCollateral(q, b.Entries)
	queueTiles(q, b.Tiles)
	queueDeliveries(q, b.Entries)
	return w, nil
}

// send writes w and waits until it is known to be durable.
func (s *Store) send(ctx context.Context, conn *pgxpool.Conn, w *writes) error {
	ctx, cancel := patient(ctx)
	defer cancel()
	// Close reads every answer up to the server's "ready", which comes after
	// the commit: nil from it, and nothing earlier, means durable.
	sent := conn.SendBatch(ctx, &w.Batch)
	failpoint.Hit(failpoint.Sent)
	if err := sent.Close(); err != nil {
		err = failed(conn, err)
		if conn.Conn().IsClosed() {
			s.reads.Reset() // the way to a server that is gone; what is read next may decide
		}
		return s.waitedInVain(ctx, err)
	}
	for _, learn := range w.learn {
		learn()
	}
	return nil
}

// patience is how much longer than its caller a commit waits for its answer.
const patience = time.Second

// patient returns a context that ends a little after ctx. What was sent cannot be
// recalled: hanging up would only turn an answer that is on its way into an
// unknown outcome.
func patient(ctx context.Context) (context.Context, context.CancelFunc) {
	longer, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		timer := time.NewTimer(patience)
		defer timer.Stop()
		select {
		case <-timer.C:
			cancel()
		case <-longer.Done():
		}
	})
	return longer, func() {
		stop()
		cancel()
	}
}

// failed says what is known after a commit's error. Only what the server itself
// reports as an ERROR (it then rolled back) and what was never sent is known
// not to be written.
func failed(conn *pgxpool.Conn, err error) error {
	switch violated(err) {
	case "heads_pkey", "heads_prev_size_key", "heads_follow":
		return fmt.Errorf("%w: %w", ledger.ErrConflict, err)
	case "entries_entry_id_key": // a known statement is no reason to part with a session
		return fmt.Errorf("%w: %w", ledger.ErrUnfit, err)
	}
	if yielded(err) {
		return unavailable(err)
	}
	// Whatever state the session is in, nobody else shall meet it.
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	closing := conn.Conn().Close(ctx)

	var pg *pgconn.PgError
	rolledBack := errors.As(err, &pg) && pg.Severity == "ERROR" && passing(err) && !undecided(err)
	if rolledBack || pgconn.SafeToRetry(err) {
		return unavailable(err)
	}
	if pg != nil && pg.Severity == "ERROR" && unfit(pg.Code) {
		return fmt.Errorf("%w: %w", ledger.ErrUnfit, err)
	}
	return errors.Join(err, closing)
}

// fits refuses a batch that contradicts itself.
func fits(b *ledger.Batch) error {
	h := b.Head
	if h.Size > math.MaxInt64 || h.Size-h.PrevSize != uint64(len(b.Entries)) || len(b.Entries) == 0 {
		return fmt.Errorf("head of size %d over size %d does not fit %d entries", h.Size, h.PrevSize, len(b.Entries))
	}
	for i, e := range b.Entries {
		if e.Index != h.PrevSize+uint64(i) {
			return fmt.Errorf("entry %d of the batch has index %d, not %d", i, e.Index, h.PrevSize+uint64(i))
		}
		if artifacts := slices.Sorted(slices.Values(e.Artifacts)); len(slices.Compact(artifacts)) < len(e.Artifacts) {
			return fmt.Errorf("%w: entry %d names an artifact twice", ledger.ErrUnfit, e.Index)
		}
		texts := []string{e.Issuer, e.Subject, e.MediaType, e.PredicateType, e.Rule, e.Caller, e.Registry, e.Repository,
			e.Identity.Kind, e.Identity.Issuer, e.Identity.Thumbprint, e.Identity.Name}
		for _, d := range e.Deliveries {
			texts = append(texts, d.Registry, d.Repository, d.Artifact)
		}
		for _, c := range e.Collateral {
			texts = append(texts, c.Kind)
		}
		for _, text := range texts {
			if !storable(text) {
				return fmt.Errorf("%w: entry %d: text %.80q holds NUL or is not UTF-8", ledger.ErrUnfit, e.Index, text)
			}
		}
	}
	return nil
}

// queueLog writes head, entries and subjects with their statements, as far as one
// piece holds them: to begin a statement is most of what a small commit costs the
// server, so that this one does for four. All rows come FROM the head's, which is
// how it goes first; it locks the head that it follows: a commit waits for whoever
// has its Turn there, and who waits for a Turn waits for the commit. Words are
// looked for only when this process has not met them.
func queueLog(q *pgx.Batch, b *ledger.Batch, issuers, mediaTypes, predicateTypes *words, audit *telling) {
	n := len(b.Entries)
	index, id := make([]int64, n), make([][]byte, n)
	private, evidence := make([]bool, n), make([][]byte, n)
	about, digest := make([]int64, 0, n), make([][]byte, 0, n)
	for i, e := range b.Entries {
		index[i], id[i] = int64(e.Index), e.ID[:]
		private[i], evidence[i] = e.Private, e.Evidence.Bytes() // nil, so NULL, for none
		for _, d := range e.Artifacts {
			about, digest = append(about, int64(e.Index)), append(digest, d.Bytes())
		}
	}
	h, pieces := b.Head, pack(b.Entries)
	data, rest := pieces[0].columns()
	args := []any{
		int64(h.Size), int64(h.PrevSize), h.Time, int64(h.Policy), h.Root[:], notNil(h.Protected), notNil(h.Signature),
		index, issuers.ids, mediaTypes.ids, predicateTypes.ids, private, id, evidence, audit.audited,
		about, digest, pieces[0].first, pieces[0].cuts, data, rest,
	}
	terms, arrays, columns := `issuer_id, media_type_id, predicate_type_id`, ``, ``
	if fresh(issuers, mediaTypes, predicateTypes) {
		terms = `coalesce(issuer_id, (SELECT id FROM issuers WHERE sha256 = issuer)),
			coalesce(media_type_id, (SELECT id FROM media_types WHERE sha256 = media_type)),
			coalesce(predicate_type_id, (SELECT id FROM predicate_types WHERE sha256 = predicate_type))`
		arrays, columns = `, $22::bytea[], $23::bytea[], $24::bytea[]`, `, issuer, media_type, predicate_type`
		args = append(args, issuers.hashes, mediaTypes.hashes, predicateTypes.hashes)
	}
	q.Queue(`WITH
		h AS (INSERT INTO heads (size, prev_size, prev_iat, iat, policy_index, root, protected, signature)
			VALUES ($1, $2, (SELECT iat FROM heads WHERE size = $2 FOR UPDATE), $3, $4, $5::bytea, $6, $7) RETURNING iat),
		e AS (INSERT INTO entries (index, registered_at, issuer_id, media_type_id, predicate_type_id, private, entry_id, evidence, audited)
			SELECT index, h.iat, `+terms+`, private, entry_id, evidence, audited
			FROM h, unnest($8::bigint[], $9::int[], $10::int[], $11::int[], $12::boolean[], $13::bytea[], $14::bytea[], $15::bigint[]`+arrays+`)
			        AS e (index, issuer_id, media_type_id, predicate_type_id, private, entry_id, evidence, audited`+columns+`)),
		s AS (INSERT INTO entry_subjects (index, digest) SELECT s.* FROM h, unnest($16::bigint[], $17::bytea[]) AS s)
		INSERT INTO pieces (first, cuts, data, rest) SELECT $18::bigint, $19::integer[], $20::bytea, $21::bytea FROM h`, args...)
	for _, p := range pieces[1:] {
		data, rest := p.columns()
		q.Queue(`INSERT INTO pieces (first, cuts, data, rest) VALUES ($1::bigint, $2::integer[], $3, $4)`, p.first, p.cuts, data, rest)
	}
}

func queueCollateral(q *pgx.Batch, entries []ledger.NewEntry) {
	var index []int64
	var position []int16
	var kind []string
	var sha [][]byte
	data := map[[32]byte][]byte{}
	for _, e := range entries {
		for i, c := range e.Collateral {
			sum := sha256.Sum256(c.Data)
			data[sum] = notNil(c.Data)
			index, position = append(index, int64(e.Index)), append(position, int16(i))
			kind, sha = append(kind, c.Kind), append(sha, sum[:])
		}
	}
	if len(index) == 0 {
		return
	}
	sums := make([][]byte, 0, len(data))
	for sum := range data {
		sums = append(sums, sum[:])
	}
	slices.SortFunc(sums, bytes.Compare)
	contents := make([][]byte, len(sums))
	for i, sum := range sums {
		contents[i] = data[[32]byte(sum)]
	}
	q.Queue(`INSERT INTO collateral (sha256, data)
		SELECT * FROM unnest($1::bytea[], $2::bytea[]) ON CONFLICT (sha256) DO NOTHING`, sums, contents)
	q.Queue(`INSERT INTO entry_collateral (index, position, kind, sha256)
		SELECT * FROM unnest($1::bigint[], $2::smallint[], $3::text[], $4::bytea[])`, index, position, kind, sha)
}

func queueTiles(q *pgx.Batch, tiles []ledger.Tile) {
	if len(tiles) == 0 {
		return
	}
	level, n := make([]int16, len(tiles)), make([]int64, len(tiles))
	root, data := make([][]byte, len(tiles)), make([][]byte, len(tiles))
	for i, t := range tiles {
		level[i], n[i], root[i], data[i] = int16(t.Level), int64(t.N), t.Root[:], notNil(t.Data)
	}
	q.Queue(`INSERT INTO tiles (level, n, root, data)
		SELECT * FROM unnest($1::smallint[], $2::bigint[], $3::bytea[], $4::bytea[])`, level, n, root, data)
}

// queueDeliveries also claims the staged evidence that is to be placed.
func queueDeliveries(q *pgx.Batch, entries []ledger.NewEntry) {
	var index []int64
	var registry, repository, artifact, state, lastError []string
	var subject, manifest, needed [][]byte
	var tries []int32
	var nextAt []time.Time
	for _, e := range entries {
		for _, d := range e.Deliveries {
			index = append(index, int64(e.Index))
			registry, repository, subject = append(registry, d.Registry), append(repository, d.Repository), append(subject, d.Subject.Bytes())
			artifact, state, tries = append(artifact, d.Artifact), append(state, cmp.Or(d.State, ledger.Queued)), append(tries, int32(d.Tries))
			nextAt, lastError, manifest = append(nextAt, d.NextAt), append(lastError, legible(d.LastError)), append(manifest, d.Manifest.Bytes())
			if d.Artifact == ledger.EvidenceArtifact && e.Evidence != "" {
				needed = append(needed, e.Evidence.Bytes())
			}
		}
	}
	if len(index) > 0 {
		q.Queue(`INSERT INTO deliveries (index, registry, repository, subject, artifact, state, tries, next_at, last_error, manifest)
			SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::bytea[], $5::text[], $6::text[], $7::int[],
			                     $8::timestamptz[], $9::text[], $10::bytea[])`,
			index, registry, repository, subject, artifact, state, tries, nextAt, lastError, manifest)
	}
	if len(needed) > 0 {
		q.Queue(`UPDATE staged SET claimed = true WHERE digest = ANY($1::bytea[])`, needed)
	}
}
