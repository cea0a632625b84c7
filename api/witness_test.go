package api_test

import (
	"context"
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/scittd/scittd/api"
	"github.com/scittd/scittd/api/apitype"
)

// standing is witnesses that always say the same.
type standing struct {
	signed []byte
	err    error
}

func (s standing) Checkpoint(context.Context) ([]byte, error) { return s.signed, s.err }

func (s standing) Cosigned() apitype.Cosigned {
	return apitype.Cosigned{Size: 2, Witnesses: []apitype.Witness{
		{Name: "w1", State: "cosigns", Size: 2, Since: time.Unix(1_700_000_000, 0).UTC()},
		{Name: "w2", State: "unknown", Since: time.Unix(1_700_000_000, 0).UTC()},
	}}
}

func TestCheckpointIsTheCosignedOneAndTheFreshOneIsNot(t *testing.T) {
	w := newWorld(t)
	w.growTo(5)
	newest := w.get("/log/checkpoint")
	if newest.status != 200 {
		t.Fatalf("without witnesses: %d", newest.status)
	}
	if facts := read[apitype.Service](w, "/v1/service"); facts.Cosigned != nil {
		t.Errorf("without witnesses the service speaks of them: %+v", facts.Cosigned)
	}
	for _, c := range []struct {
		name      string
		witnesses standing
		status    int
		body      string // or the problem's code
	}{
		{"cosigned", standing{signed: []byte("the cosigned one\n")}, 200, "the cosigned one\n"},
		{"none has its quorum", standing{}, 503, "not-cosigned"},
		{"the ledger fails", standing{err: errors.New("away")}, 500, "internal"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := &world{server: serve(t, api.Config{Ledger: w.ledger, Registrar: accepting(), Witnesses: c.witnesses})}
			a := w.get("/log/checkpoint")
			if c.status == 200 {
				if a.status != 200 || string(a.body) != c.body || a.header.Get("Cache-Control") != "max-age=5" {
					t.Errorf("%d %q, %v", a.status, a.body, a.header)
				}
			} else {
				a.refused(t, c.status, c.body)
			}
			for _, query := range []string{"?fresh", "?fresh=true"} {
				if a := w.get("/log/checkpoint" + query); a.status != 200 || string(a.body) != string(newest.body) {
					t.Errorf("%s: %d %q, want %q", query, a.status, a.body, newest.body)
				}
			}
			w.get("/log/checkpoint?fresh=soon").refused(t, 400, "bad-filter")
			if facts, want := read[apitype.Service](w, "/v1/service"), c.witnesses.Cosigned(); !reflect.DeepEqual(*facts.Cosigned, want) {
				t.Errorf("the service says %+v, want %+v", *facts.Cosigned, want)
			}
		})
	}
}
