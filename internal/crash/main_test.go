// Package crash kills scittd and PostgreSQL, again and again, and holds what is
// there afterwards against what was promised before.
//
// It uses the real binary over HTTP and keeps a journal of every promise in the
// process that does the killing: entry, index, receipt bytes. After each kill
// what had no answer is submitted again, and what had one must be answered by
// the same bytes. At the end of every log ledgertest.CheckLog recomputes it from
// the closed store. A control shows that loss would be noticed.
//
// The short form is a test like any other; make crash runs the same tests for as
// long as its flags say:
//
//	make crash CRASHFLAGS='-service 10000 -postgres 2000 -placement 200 -tagged 50'
//
// The same journal watches a soak, in which nothing is killed: two replicas do
// everything they are for at once, every answer is checked, and their memory is
// measured. make soak lets that go on for ten minutes.
//
// It knows scittd's command line and its HTTP interface, and nothing of how
// either is made.
package crash

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/scittd/scittd/internal/testenv"
)

var (
	serviceKills   = flag.Int("service", 208, "kill -9 of scittd so often, half of them on each store")
	postgresKills  = flag.Int("postgres", 32, "kill -9 of PostgreSQL so often")
	placementKills = flag.Int("placement", 4, "kill -9 of scittd while it places artifacts so often")
	taggedKills    = flag.Int("tagged", 0, "and so often beside a registry without the referrers API; each log of them waits a minute for leases")
	perLog         = flag.Int("log", 110, "begin a new log after so many kills, and check the old one")
	soakFor        = flag.Duration("soak", 6*time.Second, "let two replicas under mixed load go on for so long")
	seed           = flag.Uint64("seed", uint64(time.Now().UnixNano()), "of everything that is left to chance")
)

// The binaries: scittd as it ships, and one with failpoints.
var shipped, chaos string

// services are those that are to be killed.
var services = make(children)

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	flag.Parse()
	if os.Getenv(asParent) != "" {
		go services.run()
		beParent()
		return 0
	}
	dir, err := os.MkdirTemp("", "scittd-crash-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	shipped, chaos = filepath.Join(dir, "scittd"), filepath.Join(dir, "chaos")
	for _, args := range [][]string{{"-o", shipped}, {"-tags", "chaos", "-o", chaos}} {
		build := exec.Command("go", append(append([]string{"build"}, args...), "./cmd/scittd")...)
		build.Dir, build.Env = "../..", append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build scittd: %v\n%s", err, out)
			return 1
		}
	}
	fmt.Printf("-seed %d\n", *seed)
	go services.run()
	code := m.Run()
	close(services)
	if err := testenv.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	return code
}
