package client_test

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	cosignature "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"

	"github.com/scittd/scittd/client"
	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/statement"
	"github.com/scittd/scittd/witness"
)

// noteKey makes a key that signs checkpoints, or with cosigner, cosigns them.
func noteKey(t *testing.T, name string, cosigner bool) (note.Signer, string) {
	t.Helper()
	skey, vkey, err := note.GenerateKey(rand.Reader, name)
	if err != nil {
		t.Fatal(err)
	}
	if !cosigner {
		s, err := note.NewSigner(skey)
		if err != nil {
			t.Fatal(err)
		}
		return s, vkey
	}
	s, err := cosignature.NewSignerForCosignatureV1(skey)
	if err != nil {
		t.Fatal(err)
	}
	if vkey, err = cosignature.VKeyToCosignatureV1(vkey); err != nil {
		t.Fatal(err)
	}
	return s, vkey
}

func TestClaimCountsAsWitnessedOnlyUnderACosignedRoot(t *testing.T) {
	const origin = "scitt.example/log"
	log, logKey := noteKey(t, origin, false)
	stranger, _ := noteKey(t, origin, false)
	one, oneKey := noteKey(t, "witness.example/1", true)
	two, twoKey := noteKey(t, "witness.example/2", true)
	policy, err := witness.ParsePolicy(fmt.Appendf(nil, "log %s\nwitness w1 %s\nwitness w2 %s\ngroup any any w1 w2\nquorum any\n", logKey, oneKey, twoKey))
	if err != nil {
		t.Fatal(err)
	}

	key, ours := newKey(t), newService(t, scitt)
	signed, id := claim(t, key, wabbit, []byte("{}"))
	receipt := ours.receipt(t, id, now.Add(-time.Hour))
	parsed, err := receipts.Parse(receipt)
	if err != nil {
		t.Fatal(err)
	}
	root, err := parsed.Root(id[:])
	if err != nil {
		t.Fatal(err)
	}
	checkpoint := func(size int, root [32]byte, signers ...note.Signer) []byte {
		t.Helper()
		text := fmt.Sprintf("%s\n%d\n%s\n", origin, size, base64.StdEncoding.EncodeToString(root[:]))
		b, err := note.Sign(&note.Note{Text: text}, signers...)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	at := func(b []byte) map[statement.ID][]byte { return map[statement.ID][]byte{id: b} }
	var trust client.Trust
	if err := trust.Pin(scitt, ours.keySet(), now); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name       string
		checkpoint []byte
		receipts   map[statement.ID][]byte
		least      int
		class      string // "" = verified
		detail     string
	}{
		{"one of two", checkpoint(2, root, log, one), at(receipt), 0, "", "cosigned by w1"},
		{"two of two", checkpoint(2, root, log, one, two), at(receipt), 2, "", "in the tree of size 2 of scitt.example/log, cosigned by w1, w2"},
		{"fewer than asked for", checkpoint(2, root, log, one), at(receipt), 2, client.FailUnmet, "too few cosignatures"},
		{"nobody", checkpoint(2, root, log), at(receipt), 0, client.FailUntrusted, "no quorum"},
		{"another log's key", checkpoint(2, root, stranger, one), at(receipt), 0, client.FailUntrusted, "signature of"},
		{"no checkpoint", []byte("<html>"), at(receipt), 0, client.FailUntrusted, "not a signed note"},
		{"not in the tree yet", checkpoint(2, root, log, one), nil, 0, client.FailUnmet, "not in the cosigned tree"},
		{"another root", checkpoint(2, [32]byte{1}, log, one), at(receipt), 0, client.FailInvalid, "does not lead"},
		{"another size", checkpoint(3, root, log, one), at(receipt), 0, client.FailInvalid, "does not lead"},
		{"no receipt", checkpoint(2, root, log, one), at([]byte("none")), 0, client.FailInvalid, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := client.Verifier{
				Trust: trust, Issuers: []client.IssuerRule{{Issuer: wabbit}}, Now: now,
				Witnessed: &client.Witnessed{Policy: policy, Least: c.least, Checkpoint: c.checkpoint, Receipts: c.receipts},
			}
			verdict := v.Verify(transparent(t, signed, receipt))
			if verdict.Failure() != c.class || verdict.Passed("witnesses") != (c.class == "") {
				t.Errorf("class %q, want %q: %+v", verdict.Failure(), c.class, verdict.Checks)
			}
			if !strings.Contains(fmt.Sprintf("%+v", verdict.Checks), c.detail) {
				t.Errorf("nothing says %q: %+v", c.detail, verdict.Checks)
			}
		})
	}
}
