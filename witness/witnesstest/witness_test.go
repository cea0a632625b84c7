package witnesstest_test

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	cosignature "github.com/transparency-dev/formats/note"
	"go.uber.org/goleak"
	"golang.org/x/mod/sumdb/note"

	"github.com/scittd/scittd/witness/witnesstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The table is in the words of https://c2sp.org/tlog-witness. The witness of
// transparency-dev (v0.0.0-20260720115447-2e1c6971d19e) gives the same answers.
func TestWitnessAnswersAsTheSpecificationSays(t *testing.T) {
	l := witnesstest.NewLog(t, "scitt.example/log")
	stranger, impostor := witnesstest.NewLog(t, "other.example/log"), witnesstest.NewLog(t, "scitt.example/log")
	w := witnesstest.New(t, "witness.example/w", l.Verifier)
	verifier, err := cosignature.NewVerifierForCosignatureV1(w.VKey)
	if err != nil {
		t.Fatal(err)
	}

	checkpoint := func(l *witnesstest.Log) string {
		t.Helper()
		signed, err := l.Checkpoint(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return string(signed)
	}
	proof := func(from, to uint64) (lines string) {
		t.Helper()
		hashes, err := l.Consistency(t.Context(), from, to)
		if err != nil {
			t.Fatal(err)
		}
		for _, hash := range hashes {
			lines += base64.StdEncoding.EncodeToString(hash) + "\n"
		}
		return lines
	}
	request := func(old uint64, proof, signed string) string {
		return fmt.Sprintf("old %d\n%s\n%s", old, proof, signed)
	}

	l.Grow(10, "main")
	ten := checkpoint(l)
	l.Grow(7, "main")
	seventeen, between := checkpoint(l), proof(10, 17)
	l.Rollback(10)
	l.Grow(7, "another story")
	forked, forkedBetween := checkpoint(l), proof(10, 17)
	stranger.Grow(3, "main")
	impostor.Grow(10, "main")

	for _, c := range []struct {
		name, body string
		status     int
		size       string // with 409
	}{
		{"nonsense", "hello\n", 400, ""},
		{"no empty line", "old 0\n" + ten[:20], 400, ""},
		{"an old size with zeros", request(0, "", ten)[:4] + "00\n\n" + ten, 400, ""},
		{"a proof line that is no hash", request(0, "AAAA\n", ten), 400, ""},
		{"64 proof lines", request(0, strings.Repeat(between[:45], 64), ten), 400, ""},
		{"unknown log", request(0, "", checkpoint(stranger)), 404, ""},
		{"no signature of the log", request(0, "", checkpoint(impostor)), 403, ""},
		{"proof from nothing", request(0, between, ten), 422, ""},
		{"first contact from elsewhere", request(5, "", ten), 409, "0\n"},
		{"first contact", request(0, "", ten), 200, ""},
		{"the same again, from nothing", request(0, "", ten), 409, "10\n"},
		{"the same again", request(10, "", ten), 200, ""},
		{"an old size above the checkpoint's", request(11, "", ten), 400, ""},
		{"another old size", request(9, "", ten), 409, "10\n"},
		{"growth without proof", request(10, "", seventeen), 422, ""},
		{"growth with another log's proof", request(10, forkedBetween, seventeen), 422, ""},
		{"growth", request(10, between, seventeen), 200, ""},
		{"growth again", request(10, between, seventeen), 409, "17\n"},
		{"rollback", request(10, "", ten), 409, "17\n"},
		{"another tree of the same size", request(17, "", forked), 422, ""},
	} {
		resp, err := http.Post(w.URL+"/add-checkpoint", "", strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != c.status {
			t.Errorf("%s: status %d (%s), want %d", c.name, resp.StatusCode, body, c.status)
		}
		if kind := resp.Header.Get("Content-Type"); c.status == 409 && (string(body) != c.size || kind != "text/x.tlog.size") {
			t.Errorf("%s: %q as %s, want %q", c.name, body, kind, c.size)
		}
		if c.status == 200 {
			_, signed, _ := strings.Cut(c.body, "\n\n")
			if _, err := note.Open([]byte(signed+string(body)), note.VerifierList(verifier)); err != nil {
				t.Errorf("%s: %q: %v", c.name, body, err)
			}
		}
	}
	if got := w.Seen("scitt.example/log"); got != 17 {
		t.Errorf("it has cosigned size %d in the end, want 17", got)
	}
}
