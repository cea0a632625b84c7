package crash

import (
	"context"
	"math/rand/v2"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/scittd/scittd/internal/testenv"
)

// careless makes every commit of a log asynchronous behind the service's back,
// which pins synchronous_commit and refuses a server that has it off: a trigger
// on what each commit inserts first changes it for that transaction alone.
const careless = `
	CREATE FUNCTION careless() RETURNS trigger LANGUAGE plpgsql AS
	$$ BEGIN PERFORM set_config('synchronous_commit', 'off', true); RETURN NULL; END $$;
	CREATE TRIGGER careless AFTER INSERT ON heads FOR EACH ROW EXECUTE FUNCTION careless()`

// TestALossOfAcknowledgedEntriesIsNoticed is the control of all others here: a
// server that acknowledges before it has written is killed, and what it lost is
// found by the same journal.
func TestALossOfAcknowledgedEntriesIsNoticed(t *testing.T) {
	t.Parallel()
	const most = 5
	chance := rand.New(rand.NewPCG(*seed, 4))
	for kill := 1; kill <= most; kill++ {
		pg := testenv.StartPostgres(t, "wal_writer_delay=10s")
		dsn := pg.Database(t)
		w := newWorld(t, chance, onPostgres(dsn), 1, "--registry-off", "--database-url", dsn)
		c, err := pgx.Connect(t.Context(), dsn)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Exec(t.Context(), careless); err != nil {
			t.Fatal(err)
		}
		if err := c.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
		w.sign(4*perRound, "")
		w.during(w.posts(), 2*perRound, func() {
			pg.Kill(t)
			w.replicas[0].kill()
			pg.Start(t)
		})
		w.replicas[0].start("")
		w.lookBack(w.journal.acknowledged())
		if lost := w.journal.figures.Lost; lost > 0 {
			t.Logf("kill %d of a server that does not wait for its disk: %d of %d acknowledged entries are lost, and noticed",
				kill, lost, w.journal.figures.Acknowledged)
			return
		}
	}
	t.Errorf("%d kills of a server that does not wait for its disk lost nothing: a loss would not be noticed", most)
}
