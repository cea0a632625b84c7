package main

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/scittd/scittd/api/apitype"
	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/witness"
	"github.com/scittd/scittd/witness/witnesstest"
)

// logKey verifies the checkpoints of the site's log.
func (s *site) logKey() (vkey string, v note.Verifier) {
	s.t.Helper()
	key, err := cose.ParsePrivatePEM(s.read("service/keys/checkpoint.pem"))
	if err != nil {
		s.t.Fatal(err)
	}
	if vkey, err = note.NewEd25519VerifierKey(s.listen+"/log", key.Public().(ed25519.PublicKey)); err != nil {
		s.t.Fatal(err)
	}
	if v, err = note.NewVerifier(vkey); err != nil {
		s.t.Fatal(err)
	}
	return vkey, v
}

// sizeOf is the size that a checkpoint states.
func sizeOf(t *testing.T, signed []byte) uint64 {
	t.Helper()
	lines := strings.Split(string(signed), "\n")
	if len(lines) < 3 {
		t.Fatalf("no checkpoint: %q", signed)
	}
	size, err := strconv.ParseUint(lines[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return size
}

// away is a witness in an outage.
func away(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusBadGateway) }

func TestWitnessesCosignTheLogAndTheirOutageDelaysNothingElse(t *testing.T) {
	t.Parallel()
	l, running := newLoad(newSite(t, sqliteEmbedded))
	running.stop()
	logKey, log := l.logKey()
	var all []*witnesstest.Witness
	for i := range 3 {
		all = append(all, witnesstest.New(t, fmt.Sprintf("witness.example/%d", i), log))
	}
	outage := func(n int, h http.HandlerFunc) {
		for _, w := range all[:n] {
			w.Break(h)
		}
	}
	text := witnesstest.Policy(2, all...)
	policy, err := witness.ParsePolicy([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	serve := func() *server { return l.serve(append(unlimited, "--log-witnesses", l.write("witnesses", text))...) }
	// The last claim of each round is a Transparent Statement in claim.cose.
	register := func() {
		all := l.sign(20)
		l.finish(all)
		l.write("claim.cose", string(l.get("/v1/entries/"+all[len(all)-1].id.String()+"/transparent", "")))
	}
	l.write("clients", fmt.Sprintf("log %s\n%s", logKey, text))
	verify := []string{"verify", "claim.cose", "--service", l.url, "--issuer", "https://tests.wabbit.example", "--witnesses", "clients"}
	// cosigned is the published checkpoint, which has its quorum or is not there.
	cosigned := func() []byte {
		t.Helper()
		a := l.ask(http.MethodGet, "/log/checkpoint", "", nil)
		if a.status == http.StatusServiceUnavailable && bytes.Contains(a.body, []byte("Not Cosigned")) {
			return nil
		}
		if _, err := policy.Open(a.body, log); a.status != http.StatusOK || err != nil {
			t.Fatalf("checkpoint: %d, %v\n%s", a.status, err, a.body)
		}
		return a.body
	}
	// fresh is the newest checkpoint, of all that was registered so far.
	fresh := func() uint64 {
		t.Helper()
		var size uint64
		running.await("to show its newest checkpoint", func() bool {
			signed := l.get("/log/checkpoint?fresh", "")
			if _, err := note.Open(signed, note.VerifierList(log)); err != nil {
				t.Fatalf("%v\n%s", err, signed)
			}
			size = sizeOf(t, signed)
			return size == 2+uint64(l.signed)
		})
		return size
	}
	caughtUp := func() {
		t.Helper()
		size := fresh()
		running.await("to have its newest checkpoint cosigned", func() bool {
			signed := cosigned()
			return signed != nil && sizeOf(t, signed) == size
		})
	}

	outage(2, away)
	running = serve()
	l.run("scitt", "trust", "init", l.url, "--yes")
	register()
	fresh()
	if signed := cosigned(); signed != nil {
		t.Fatalf("published before two witnesses have cosigned:\n%s", signed)
	}

	outage(2, nil)
	caughtUp()
	register()
	caughtUp()
	if out := l.run("scitt", append(verify, "--min-witnesses", "2")...); !strings.Contains(out, "OK    witnesses") || strings.Contains(out, "NOT CHECKED: witnesses") {
		t.Errorf("scitt verify does not say that the claim is witnessed:\n%s", out)
	}

	outage(2, away)
	before := cosigned()
	register()
	fresh()
	if now := cosigned(); sizeOf(t, now) != sizeOf(t, before) {
		t.Errorf("published at size %d with one witness", sizeOf(t, now))
	}
	running.await("to notice the outage", func() bool {
		var s apitype.Service
		l.getJSON("/v1/service", "", &s)
		return s.Cosigned != nil && s.Cosigned.Size == sizeOf(t, before) &&
			len(s.Cosigned.Witnesses) == 3 && s.Cosigned.Witnesses[0].State == witness.Failing
	})

	l.refused(14, []string{"do not meet what was asked for"}, "scitt", verify...)

	running.kill()
	running = serve()
	if now := cosigned(); now == nil || sizeOf(t, now) < sizeOf(t, before) {
		t.Error("a restart in an outage loses the cosigned checkpoint")
	}
	outage(2, nil)
	caughtUp()
	running.stop()
}

func TestWitnessPolicyThatCannotBeUsedStopsTheStart(t *testing.T) {
	t.Parallel()
	s := newSite(t, sqliteEmbedded)
	s.keyPair("tester")
	s.init(crashPolicy)
	for _, c := range []struct{ text, want string }{
		{"witness a b\nquorum a\n", "line 1"},
		{"quorum nobody\n", "nobody"},
		{"witness w1 " + witnesstest.New(t, "witness.example/w").VKey + "\nquorum w1\n", "cannot make a quorum"},
	} {
		s.refused(2, []string{"log.witnesses", c.want}, "scittd", "serve", "--dir", "service", "--log-witnesses", s.write("witnesses", c.text))
	}
	s.refused(2, []string{"log.witnesses", "no such file"}, "scittd", "serve", "--dir", "service", "--log-witnesses", "nowhere")
}
