package witness_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	cosignature "github.com/transparency-dev/formats/note"
	"go.uber.org/goleak"
	"golang.org/x/mod/sumdb/note"

	"github.com/scittd/scittd/witness"
	"github.com/scittd/scittd/witness/witnesstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const origin = "scitt.example/log"

func newLog(t testing.TB, size int) *witnesstest.Log {
	t.Helper()
	l := witnesstest.NewLog(t, origin)
	l.Grow(size, "main")
	return l
}

func client(t testing.TB, vkey, url string) *witness.Witness {
	t.Helper()
	w, err := witness.New("w", vkey, url)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func checkpointOf(t testing.TB, l witness.Log) []byte {
	t.Helper()
	signed, err := l.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// cosign fails the test unless w cosigns the newest checkpoint of l, and checks
// the line with the library's verifier.
func cosign(t testing.TB, w *witness.Witness, l witness.Log, vkey string) {
	t.Helper()
	signed := checkpointOf(t, l)
	line, err := w.Cosign(t.Context(), l, signed)
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := cosignature.NewVerifierForCosignatureV1(vkey)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := note.Open(append(signed, line...), note.VerifierList(verifier)); err != nil {
		t.Fatalf("line %q: %v", line, err)
	}
}

func TestWitnessCosignsFirstContactAndEveryGrowth(t *testing.T) {
	l := newLog(t, 1)
	remote := witnesstest.New(t, "witness.example/w", l.Verifier)
	w := client(t, remote.VKey, remote.URL)
	for _, grow := range []int{0, 1, 1, 5, 248, 1, 300} {
		l.Grow(grow, "main")
		cosign(t, w, l, remote.VKey)
	}
	if got := remote.Seen(origin); got != 557 {
		t.Errorf("witness has cosigned size %d, want 557", got)
	}
	if got := remote.Asked(); got != 7 {
		t.Errorf("%d requests for 7 checkpoints: what was cosigned last should be known", got)
	}
}

func TestClientWithoutMemoryAsksFromWhatTheWitnessNames(t *testing.T) {
	l := newLog(t, 70)
	remote := witnesstest.New(t, "witness.example/w", l.Verifier)
	for _, grow := range []int{0, 30, 0, 200} { // the same size again, too
		l.Grow(grow, "main")
		cosign(t, client(t, remote.VKey, remote.URL), l, remote.VKey)
	}
}

func TestWitnessThatForgotIsServedAgain(t *testing.T) {
	l := newLog(t, 10)
	remote := witnesstest.New(t, "witness.example/w", l.Verifier)
	w := client(t, remote.VKey, remote.URL)
	cosign(t, w, l, remote.VKey)
	remote.Forget()
	l.Grow(1, "main")
	cosign(t, w, l, remote.VKey)
}

func TestRolledBackLogIsToldApartFromAForkedOne(t *testing.T) {
	l := newLog(t, 100)
	remote := witnesstest.New(t, "witness.example/w", l.Verifier)
	cosign(t, client(t, remote.VKey, remote.URL), l, remote.VKey)

	l.Rollback(60)
	w := client(t, remote.VKey, remote.URL)
	_, err := w.Cosign(t.Context(), l, checkpointOf(t, l))
	if ahead := (*witness.AheadError)(nil); !errors.As(err, &ahead) || ahead.Size != 100 {
		t.Errorf("cosign size 60 after 100: %v, want AheadError with 100", err)
	}
	if size, err := w.Size(t.Context(), checkpointOf(t, l)); size != 100 || err != nil {
		t.Errorf("Size: %d, %v, want 100", size, err)
	}

	l.Grow(40, "another story")
	if _, err := w.Cosign(t.Context(), l, checkpointOf(t, l)); !errors.Is(err, witness.ErrFork) {
		t.Errorf("cosign another tree of size 100: %v, want ErrFork", err)
	}
	if _, err := w.Size(t.Context(), checkpointOf(t, l)); !errors.Is(err, witness.ErrFork) {
		t.Errorf("Size with another tree of size 100: %v, want ErrFork", err)
	}
	l.Grow(1, "another story")
	if _, err := w.Cosign(t.Context(), l, checkpointOf(t, l)); !errors.Is(err, witness.ErrFork) {
		t.Errorf("cosign another tree of size 101: %v, want ErrFork", err)
	}
	if got := remote.Seen(origin); got != 100 {
		t.Errorf("witness has cosigned size %d, want 100 still", got)
	}
}

func TestAskingForTheSizeTeachesTheWitnessNothing(t *testing.T) {
	l := newLog(t, 10)
	remote := witnesstest.New(t, "witness.example/w", l.Verifier)
	w := client(t, remote.VKey, remote.URL)
	want := uint64(0)
	for range 3 {
		size, err := w.Size(t.Context(), checkpointOf(t, l))
		if size != want || err != nil {
			t.Fatalf("Size: %d, %v, want %d", size, err, want)
		}
		if seen := remote.Seen(origin); seen != want {
			t.Fatalf("witness has cosigned size %d after Size, want %d", seen, want)
		}
		cosign(t, w, l, remote.VKey)
		if size, err := w.Size(t.Context(), checkpointOf(t, l)); size != want+10 || err != nil {
			t.Fatalf("Size of the size it knows: %d, %v, want %d", size, err, want+10)
		}
		want += 10
		l.Grow(10, "main")
	}
}

func TestLatestIsWhatLogAndWitnessSigned(t *testing.T) {
	l := newLog(t, 10)
	remote := witnesstest.New(t, "witness.example/w", l.Verifier)
	w := client(t, remote.VKey, remote.URL)
	if _, err := w.Latest(t.Context(), l.Verifier); err == nil {
		t.Error("a checkpoint from a witness that has none")
	}
	signed := checkpointOf(t, l)
	cosign(t, w, l, remote.VKey)
	l.Rollback(5)
	got, err := w.Latest(t.Context(), l.Verifier)
	if err != nil || !bytes.HasPrefix(got, signed) {
		t.Errorf("Latest: %v, %q, want %q and a cosignature", err, got, signed)
	}

	remote.Break(func(rw http.ResponseWriter, _ *http.Request) { rw.Write(signed) })
	if _, err := w.Latest(t.Context(), l.Verifier); err == nil {
		t.Error("a checkpoint that the witness did not sign is taken for its memory")
	}
	other := witnesstest.NewLog(t, origin)
	remote.Break(nil)
	if _, err := w.Latest(t.Context(), other.Verifier); err == nil {
		t.Error("a checkpoint that the log did not sign is taken for its memory")
	}
}

func TestRefusalsSayWhatToDo(t *testing.T) {
	l := newLog(t, 10)
	stranger := witnesstest.NewLog(t, "other.example/log")
	impostor := witnesstest.NewLog(t, origin)
	impostor.Grow(3, "main")
	remote := witnesstest.New(t, "witness.example/w", l.Verifier)
	for _, c := range []struct {
		name string
		log  *witnesstest.Log
		url  string
		want string
	}{
		{"unknown log", stranger, remote.URL, "does not know the log other.example/log"},
		{"unknown key", impostor, remote.URL, "does not know the key"},
		{"no such path", l, remote.URL + "/elsewhere", "does not know the log"},
		{"nobody there", l, "http://127.0.0.1:1", "refused"},
		{"no URL", l, "", "no URL"},
	} {
		t.Run(c.name, func(t *testing.T) {
			stranger.Grow(1, "main")
			w := client(t, remote.VKey, c.url)
			if _, err := w.Cosign(t.Context(), c.log, checkpointOf(t, c.log)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Cosign: %v, want %q", err, c.want)
			}
			if _, err := w.Size(t.Context(), checkpointOf(t, c.log)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Size: %v, want %q", err, c.want)
			}
		})
	}
}

// signer is the key of a witness that answers what it likes.
func signer(t testing.TB, name string) (*cosignature.Signer, string) {
	t.Helper()
	skey, vkey, err := note.GenerateKey(rand.Reader, name)
	if err != nil {
		t.Fatal(err)
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

// lineOver is the signature line of s over a text.
func lineOver(t testing.TB, s note.Signer, text []byte) string {
	t.Helper()
	sig, err := s.Sign(text)
	if err != nil {
		t.Fatal(err)
	}
	blob := append(binary.BigEndian.AppendUint32(nil, s.KeyHash()), sig...)
	return fmt.Sprintf("— %s %s\n", s.Name(), base64.StdEncoding.EncodeToString(blob))
}

func TestNothingThatAHostileWitnessAnswersIsTaken(t *testing.T) {
	l := newLog(t, 10)
	older := checkpointOf(t, l)
	l.Grow(1, "main")
	signed := checkpointOf(t, l)
	text := signed[:bytes.Index(signed, []byte("\n\n"))+1]
	own, vkey := signer(t, "witness.example/w")
	namesake, _ := signer(t, "witness.example/w")
	plain, _, _ := plainKey(t, "witness.example/w")
	honest := witnesstest.New(t, "witness.example/honest", l.Verifier)
	say := func(status int, kind, body string) http.HandlerFunc {
		return func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Type", kind)
			rw.WriteHeader(status)
			rw.Write([]byte(body))
		}
	}
	const sized = "text/x.tlog.size"
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
	}{
		{"nothing", say(200, "", "")},
		{"no content", say(204, "", "")},
		{"a web page", say(200, "text/html", "<html>\n<body>Welcome</body>\n")},
		{"bytes", say(200, "", "\x00\xff\xfe\n")},
		{"no newline at the end", say(200, "", strings.TrimSuffix(lineOver(t, own, text), "\n"))},
		{"a line that is cut", say(200, "", lineOver(t, own, text)[:40]+"\n")},
		{"the log's own signature", say(200, "", string(signed[len(text)+1:]))},
		{"a cosignature of somebody with its name", say(200, "", lineOver(t, namesake, text))},
		{"a cosignature of an older checkpoint", say(200, "", lineOver(t, own, older[:bytes.Index(older, []byte("\n\n"))+1]))},
		{"a plain signature", say(200, "", lineOver(t, plain, text))},
		{"a text of its own", say(200, "", "\n"+lineOver(t, own, signed))},
		{"a note of its own", say(200, "", "evil.example\n1\nAAAA\n\n"+lineOver(t, own, append(bytes.Clone(signed), "evil.example\n1\nAAAA\n"...)))},
		{"more than it may", say(200, "", strings.Repeat("— a b\n", witness.MaxAnswer/6))},
		{"more than fits", func(rw http.ResponseWriter, _ *http.Request) {
			for {
				if _, err := rw.Write(make([]byte, 1<<16)); err != nil {
					return
				}
			}
		}},
		{"a redirect to a witness", func(rw http.ResponseWriter, r *http.Request) {
			http.Redirect(rw, r, honest.URL+r.URL.Path, http.StatusTemporaryRedirect)
		}},
		{"the old size again", func(rw http.ResponseWriter, _ *http.Request) { say(409, sized, "0\n")(rw, nil) }},
		{"a size that moves", func() http.HandlerFunc {
			at := 0
			return func(rw http.ResponseWriter, _ *http.Request) {
				at++
				say(409, sized, fmt.Sprintf("%d\n", at))(rw, nil)
			}
		}()},
		{"a negative size", say(409, sized, "-1\n")},
		{"a size with zeros", say(409, sized, "007\n")},
		{"no size", say(409, sized, "\n")},
		{"a size beyond counting", say(409, sized, "18446744073709551615\n")},
		{"a size as text", say(409, "text/plain", "7\n")},
		{"too often", say(429, "", "")},
		{"a failure", say(500, "", lineOver(t, own, text))},
		{"a status that is none", say(299, "", lineOver(t, own, text))},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := httptest.NewServer(c.answer)
			defer server.Close()
			w := client(t, vkey, server.URL)
			if line, err := w.Cosign(t.Context(), l, signed); err == nil {
				t.Errorf("taken for a cosignature: %q", line)
			} else if len(err.Error()) > 500 {
				t.Errorf("the error has %d bytes", len(err.Error()))
			}
			if _, err := w.Latest(t.Context(), l.Verifier); err == nil {
				t.Error("taken for a checkpoint")
			}
		})
	}
	if n := honest.Asked(); n != 0 {
		t.Errorf("redirects were followed %d times", n)
	}
}

func TestWitnessThatNeverAnswersHoldsNobodyLongerThanTheContext(t *testing.T) {
	l := newLog(t, 10)
	ctx, cancel := context.WithCancel(t.Context())
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body) // or the server would not notice that the client has gone
		cancel()
		<-r.Context().Done()
	}))
	defer server.Close()
	_, vkey := signer(t, "witness.example/w")
	if _, err := client(t, vkey, server.URL).Cosign(ctx, l, checkpointOf(t, l)); !errors.Is(err, context.Canceled) {
		t.Errorf("Cosign: %v, want the context's error", err)
	}
}

func TestOnlyCosignatureKeysAreTaken(t *testing.T) {
	_, vkey := signer(t, "witness.example/w")
	_, plain, err := note.GenerateKey(rand.Reader, "witness.example/w")
	if err != nil {
		t.Fatal(err)
	}
	_, mldsa, err := cosignature.GenerateMLDSAKey("witness.example/pq")
	if err != nil {
		t.Fatal(err)
	}
	name, rest, _ := strings.Cut(vkey, "+")
	id, key, _ := strings.Cut(rest, "+")
	for _, c := range []struct {
		name, vkey, url string
		want            string // "" = taken
	}{
		{"Ed25519", vkey, "https://witness.example/w", ""},
		{"ML-DSA-44", mldsa, "http://127.0.0.1:8000", ""},
		{"without URL", vkey, "", ""},
		{"a log's key", plain, "", "type 1"},
		{"another ID", name + "+00000000+" + key, "", "its ID should be " + id},
		{"another name", "witness.example/v+" + id + "+" + key, "", "its ID should be"},
		{"half a key", vkey[:len(vkey)-8], "", "malformed"},
		{"no key", name + "+" + id, "", "not a verifier key"},
		{"nothing", "", "", "not a verifier key"},
		{"a name with a space", "a b+" + id + "+" + key, "", "malformed"},
		{"no host", vkey, "https://", "not an http(s) URL"},
		{"another scheme", vkey, "ftp://witness.example", "not an http(s) URL"},
		{"a query", vkey, "https://witness.example/?a=b", "not an http(s) URL"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := witness.New("w", c.vkey, c.url)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("New: %v, want %q", err, c.want)
			}
		})
	}
}

func TestMLDSACosignaturesCount(t *testing.T) {
	l := newLog(t, 10)
	skey, vkey, err := cosignature.GenerateMLDSAKey("witness.example/pq")
	if err != nil {
		t.Fatal(err)
	}
	s, err := cosignature.NewMLDSASigner(skey)
	if err != nil {
		t.Fatal(err)
	}
	signed := checkpointOf(t, l)
	answer := lineOver(t, s, signed[:bytes.Index(signed, []byte("\n\n"))+1])
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { rw.Write([]byte(answer)) }))
	defer server.Close()
	line, err := client(t, vkey, server.URL).Cosign(t.Context(), l, signed)
	if err != nil || line != answer {
		t.Errorf("Cosign: %v, %d bytes, want %d", err, len(line), len(answer))
	}
}

func FuzzAnswerIsACosignatureOfTheVeryCheckpointOrRefused(f *testing.F) {
	l := newLog(f, 10)
	signed := checkpointOf(f, l)
	text := signed[:bytes.Index(signed, []byte("\n\n"))+1]
	own, vkey := signer(f, "witness.example/w")
	good := lineOver(f, own, text)
	w := client(f, vkey, "")
	verifier, err := cosignature.NewVerifierForCosignatureV1(vkey)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(signed, []byte(good))
	f.Add(signed, []byte("— a AAAAAAAA\n"+good+good))
	f.Add(signed, []byte("\n"+lineOver(f, own, signed)))
	f.Add([]byte("a\n1\nAAAA\n\n"), []byte("\n\n— "))
	f.Fuzz(func(t *testing.T, signed, answer []byte) {
		line, err := w.Line(signed, answer)
		if err != nil {
			return
		}
		n, err := note.Open(append(bytes.Clone(signed), line...), note.VerifierList(verifier))
		if err != nil || !bytes.HasPrefix(signed, []byte(n.Text+"\n")) || strings.Count(line, "\n") != 1 {
			t.Fatalf("line %q for %q: %v", line, signed, err)
		}
	})
}
