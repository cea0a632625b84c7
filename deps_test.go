package scittd_test

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/scittd/scittd/"

// arrows says which room may import which: what stands left of < may be
// imported by what stands right of it. Arrows are transitive; whatever is not
// written here is forbidden. Tests and test-only packages are free.
const arrows = `
NONE                                                  < internal/detcbor, api/apitype, migrations, internal/failpoint, internal/filelock
internal/failpoint                                    < ledger, storage
internal/detcbor                                      < internal/cose
internal/cose                                         < statement, receipts
internal/cose                                         < internal/timestamp
internal/timestamp                                    < internal/timestamp/timestamptest, policy
internal/timestamp, statement                         < internal/envelope
statement                                             < internal/envelope/envelopetest
internal/envelope                                     < policy, cmd/scitt
internal/cose                                         < internal/did
internal/did, statement                               < policy
NONE                                                  < internal/fetch
internal/fetch                                        < internal/registrar
statement, policy, receipts                           < ledger
ledger, statement, migrations                         < ledger/postgres, ledger/sqlite
internal/filelock                                     < ledger/sqlite, storage/embedded
ledger, policy, statement, receipts                   < ledger/fsck, ledger/replay
ledger/fsck, statement                                < ledger/ledgertest
receipts                                              < internal/memory
NONE                                                  < internal/checkpoint
ledger, internal/checkpoint                           < ledger/publish
internal/checkpoint                                   < witness
NONE                                                  < witness/witnesstest
storage                                               < storage/embedded, storage/front
receipts, statement, storage                          < internal/placement
ledger, policy, statement, receipts, storage, internal/placement < internal/registrar
ledger, policy, statement, receipts, api/apitype      < api
api/apitype, receipts, statement, witness             < client
client, receipts, statement, storage, internal/placement < cmd/scitt
ledger/fsck, ledger/replay, internal/memory, internal/checkpoint, api, client, internal/registrar, ledger/postgres, ledger/sqlite, ledger/publish, storage/embedded, storage/front, witness < cmd/scittd
NONE                                                  < internal/testenv, demo/net-monitor, internal/crash, compat, interop, storage/registrytest, storage/storagetest
internal/testenv                                      < demo/kit
`

// never are libraries that a room, or anything it links, must not contain.
var never = map[string][]string{
	"statement": {"net/http", "database/sql"},
	"receipts":  {"net/http", "database/sql"},
	"cmd/scitt": {"github.com/jackc/pgx/v5", "modernc.org/sqlite", module + "policy", module + "ledger"},
}

// only are libraries that belong to one room.
var only = map[string]string{
	"github.com/veraison/go-cose":     "internal/cose",
	"github.com/fxamacker/cbor/v2":    "internal/detcbor",
	"github.com/jackc/pgx/v5/pgxpool": "ledger/postgres",
	"gocloud.dev/blob":                "ledger/publish",
	"cel.dev/cel-go/cel":              "policy",
}

func TestRoomsImportOnlyAlongTheArrows(t *testing.T) {
	allowed := closure(t, arrows)
	for _, p := range list(t, "-json=ImportPath,Imports", "./...") {
		room, inside := strings.CutPrefix(p.ImportPath, module)
		if !inside {
			continue // the root holds this test and nothing else
		}
		below, known := allowed[room]
		if !known {
			t.Errorf("%s is not on the list of rooms", room)
		}
		for _, imp := range p.Imports {
			if dep, ours := strings.CutPrefix(imp, module); ours && !slices.Contains(below, dep) {
				t.Errorf("%s imports %s; it may import %v", room, dep, below)
			}
			if owner, reserved := only[imp]; reserved && owner != room {
				t.Errorf("%s imports %s, which is for %s alone", room, imp, owner)
			}
		}
	}
}

func TestSomeRoomsStayFreeOfHeavyThings(t *testing.T) {
	for room, banned := range never {
		for _, p := range list(t, "-deps", "-json=ImportPath", "./"+room) {
			if slices.Contains(banned, p.ImportPath) {
				t.Errorf("%s links %s", room, p.ImportPath)
			}
		}
	}
}

// closure reads the arrows and returns, for every room, all it may import.
func closure(t *testing.T, text string) map[string][]string {
	t.Helper()
	direct := map[string][]string{}
	for line := range strings.Lines(text) {
		left, right, ok := strings.Cut(line, "<")
		if !ok {
			continue
		}
		for _, room := range fields(right) {
			direct[room] = append(direct[room], fields(left)...)
		}
	}
	all := map[string][]string{}
	var below func(room string) []string
	below = func(room string) []string {
		if got, done := all[room]; done {
			return got
		}
		all[room] = []string{} // a cycle in the table ends here
		var got []string
		for _, dep := range direct[room] {
			if dep != "NONE" {
				got = append(append(got, dep), below(dep)...)
			}
		}
		slices.Sort(got)
		all[room] = slices.Compact(got)
		return all[room]
	}
	for room := range direct {
		below(room)
	}
	return all
}

func fields(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' })
}

type pkg struct {
	ImportPath string
	Imports    []string
}

func list(t *testing.T, args ...string) []pkg {
	t.Helper()
	out, err := exec.Command("go", append([]string{"list"}, args...)...).Output()
	if err != nil {
		t.Fatalf("go list %v: %v", args, err)
	}
	var pkgs []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); dec.More(); {
		var p pkg
		if err := dec.Decode(&p); err != nil {
			t.Fatal(fmt.Errorf("go list %v: %w", args, err))
		}
		pkgs = append(pkgs, p)
	}
	return pkgs
}
