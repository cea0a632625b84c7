package registrar_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/scittd/scittd/internal/envelope/envelopetest"
	"github.com/scittd/scittd/internal/registrar"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/ledgertest"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/statement"
	"github.com/scittd/scittd/storage"
)

// shelves is the registry of a world: it notes what is read from it, and answers
// with something else where it is told to.
type shelves struct {
	storage.Registry
	read []string // repositories, since forget
	give func() (io.ReadCloser, int64, error)
}

func (s *shelves) Repository(name string) (storage.Repository, error) {
	repo, err := s.Registry.Repository(name)
	return &shelf{repo, name, s}, err
}

type shelf struct {
	storage.Repository
	name string
	in   *shelves
}

func (s *shelf) Blob(ctx context.Context, digest string) (io.ReadCloser, int64, error) {
	s.in.read = append(s.in.read, s.name)
	if s.in.give != nil {
		return s.in.give()
	}
	return s.Repository.Blob(ctx, digest)
}

func giving(b []byte, size int, err error) func() (io.ReadCloser, int64, error) {
	return func() (io.ReadCloser, int64, error) {
		return io.NopCloser(bytes.NewReader(b)), int64(size), err
	}
}

// pushBlob puts content into a repository, as a publisher does.
func (w *world) pushBlob(repository string, content []byte) {
	w.Helper()
	repo, err := w.registry.Repository(repository)
	if err != nil {
		w.Fatal(err)
	}
	err = repo.PushBlob(w.Context(), string(statement.SHA256(content)), int64(len(content)), func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content)), nil
	})
	if err != nil {
		w.Fatal(err)
	}
}

func TestEvidenceIsReadFromTheRepositoryThatASubmissionNames(t *testing.T) {
	w := newWorld(t)
	ci := envelopetest.Signer{Key: ledgertest.NewKey(t)}
	w.publisher.Rule.Repositories = []string{"wabbit/*"}
	w.asksWhoSigned(ci)
	registry := &shelves{Registry: w.registry}
	r := registrar.New(w.ledger, registrar.Options{Registry: host, Staging: w.store, Blobs: registry})
	attestation := envelopetest.DSSE(t, envelopetest.InToto(t, w.image), ci)
	strange := envelopetest.DSSE(t, envelopetest.InToto(t, w.image), envelopetest.Signer{Key: ledgertest.NewKey(t)})
	large := make([]byte, 32<<20+1)
	here := []string{repository}
	n := 0
	for _, c := range []struct {
		name       string
		sub        string // before the digest of the image
		evidence   []byte // "": another attestation of ci
		pushed     string // repository that has it
		give       func() (io.ReadCloser, int64, error)
		repository string // that the submission names
		read       []string
		code       string // of the refusal; "503": doubt; "": admitted
	}{
		{name: "named by the request", sub: "net-monitor@", pushed: repository, repository: repository, read: here},
		{name: "named by the signed bytes", sub: "oci://" + host + "/" + repository + "@", pushed: repository, read: here},
		{name: "named by the policy", sub: "net-monitor@", pushed: repository, read: here},
		{name: "named by nobody", sub: "app@", pushed: repository, code: policy.CodePayloadMissing},
		{name: "at another host", sub: "oci://evil.example/" + repository + "@", pushed: repository, code: policy.CodePayloadMissing},
		{name: "in somebody else's repository", sub: "oci://" + host + "/acme/net-monitor@", pushed: "acme/net-monitor", code: policy.CodePayloadMissing},
		{name: "not there", sub: "net-monitor@", pushed: "wabbit/other", repository: repository, read: here, code: policy.CodePayloadMissing},
		{name: "no name of a repository", sub: "net-monitor@", repository: "../wabbit", code: policy.CodePayloadMissing},
		{name: "of a stranger", sub: "net-monitor@", evidence: strange, pushed: repository, repository: repository, read: here, code: policy.CodeBadSignature},
		{name: "more than 32 MiB", sub: "net-monitor@", evidence: large, pushed: repository, repository: repository, read: here, code: policy.CodeRejected},
		{name: "denied", sub: "net-monitor@", repository: repository, read: here, give: giving(nil, 0, fmt.Errorf("pull: %w", storage.ErrDenied)), code: policy.CodePayloadMissing},
		{name: "unknown form of digest", sub: "net-monitor@", repository: repository, read: here, give: giving(nil, 0, storage.ErrRefused), code: policy.CodePayloadMissing},
		{name: "in trouble", sub: "net-monitor@", repository: repository, read: here, give: giving(nil, 0, storage.ErrTrouble), code: "503"},
		{name: "no answer in time", sub: "net-monitor@", repository: repository, read: here, give: giving(nil, 0, context.DeadlineExceeded), code: "503"},
		{name: "cut off", sub: "net-monitor@", repository: repository, read: here, give: giving(attestation[:7], len(attestation), nil), code: "503"},
		{name: "other bytes", sub: "net-monitor@", repository: repository, read: here, give: giving(attestation, len(attestation), nil), code: "503"},
	} {
		n++
		evidence := c.evidence
		if evidence == nil {
			evidence = append(bytes.Clone(attestation), strings.Repeat(" ", n)...)
		}
		if c.pushed != "" {
			w.pushBlob(c.pushed, evidence)
		}
		registry.give = c.give
		sum := sha256.Sum256(evidence)
		s := w.publisher.Sign(t, statement.Template{Subject: c.sub + string(w.image), ContentType: dsseType, HashAlg: -16, Payload: sum[:]})
		with := ledger.Circumstances{Repository: c.repository, Scope: ledger.Public}
		for what, judge := range map[string]func() error{
			"judged": func() error {
				_, d, err := r.Judge(t.Context(), s.Canonical(), with)
				if err == nil && d.Refusal != nil {
					err = d.Refusal
				}
				return err
			},
			"registered": func() error {
				reg, err := r.Register(t.Context(), s.Canonical(), with)
				if err == nil && !reg.New {
					err = errors.New("registered before")
				}
				return err
			},
		} {
			if what == "judged" && c.code == "" {
				continue // once it is registered, nothing is judged: see below
			}
			registry.read = nil
			err := judge()
			var refusal *policy.Refusal
			switch {
			case c.code == "" && err != nil:
				t.Errorf("%s, %s: %v", c.name, what, err)
			case c.code == "503" && (!errors.Is(err, policy.ErrLookup) || errors.Is(err, context.DeadlineExceeded) || errors.As(err, &refusal)):
				t.Errorf("%s, %s: %v; want policy.ErrLookup", c.name, what, err)
			case c.code != "" && c.code != "503" && (!errors.As(err, &refusal) || refusal.Code != c.code || refusal.Hint == ""):
				t.Errorf("%s, %s: %v; want %s", c.name, what, err, c.code)
			}
			if !slices.Equal(registry.read, c.read) {
				t.Errorf("%s, %s: read from %q, want %q", c.name, what, registry.read, c.read)
			}
		}
	}
}

// Reading costs, and the registry may be slow.
func TestTheRegistryIsAskedForEvidenceOnlyWhenNothingElseIsMissing(t *testing.T) {
	w := newWorld(t)
	ci := envelopetest.Signer{Key: ledgertest.NewKey(t)}
	w.asksWhoSigned(ci)
	registry := &shelves{Registry: w.registry}
	r := registrar.New(w.ledger, registrar.Options{Registry: host, Staging: w.store, Blobs: registry})
	evidence := envelopetest.DSSE(t, envelopetest.InToto(t, w.image), ci)
	w.pushBlob(repository, evidence)
	s := w.hashed(evidence)
	with := ledger.Circumstances{Repository: repository, Scope: ledger.Public}
	asked := func(what string, want int, err error) {
		t.Helper()
		if got := len(registry.read); err != nil || got != want {
			t.Errorf("%s: asked %d times, want %d; %v", what, got, want, err)
		}
		registry.read = nil
	}

	forged := bytes.Clone(s.Canonical())
	forged[len(forged)-1] ^= 1
	var refusal *policy.Refusal
	if _, err := r.Register(t.Context(), forged, with); !errors.As(err, &refusal) || refusal.Code != policy.CodeBadSignature {
		t.Errorf("forged: %v", err)
	}
	asked("forged", 0, nil)
	_, d, err := r.Judge(t.Context(), s.Canonical(), with)
	if err == nil && d.Refusal != nil {
		err = d.Refusal
	}
	asked("judged", 1, err)
	first, err := r.Register(t.Context(), s.Canonical(), with)
	asked("registered", 1, err)

	// What is registered keeps its receipt, whatever the registry says.
	again, err := r.Register(t.Context(), s.Canonical(), ledger.Circumstances{Scope: ledger.Public})
	asked("again", 0, err)
	if again.New || !bytes.Equal(again.Receipt, first.Receipt) {
		t.Errorf("again: %+v", again)
	}
	_, d, err = r.Judge(t.Context(), s.Canonical(), with)
	asked("judged again", 0, err)
	if d.Refusal != nil || d.Rule != first.Entry.Rule {
		t.Errorf("judged again: %+v", d)
	}
	registry.give = giving(nil, 0, storage.ErrTrouble)
	again, err = r.Register(t.Context(), s.Canonical(), with)
	asked("again, for its place", 1, err)
	if again.New || !bytes.Equal(again.Receipt, first.Receipt) {
		t.Errorf("again, for its place: %+v", again)
	}

	staged := append(bytes.Clone(evidence), ' ')
	w.stageContent(staged)
	_, err = r.Register(t.Context(), w.hashed(staged).Canonical(), with)
	asked("staged", 0, err)
}

func TestWhatAnExternalRegistryAnswersForEvidenceIsAnAnswerOrADoubt(t *testing.T) {
	w := newWorld(t)
	ci := envelopetest.Signer{Key: ledgertest.NewKey(t)}
	w.asksWhoSigned(ci)
	there := newDouble(t)
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
	}
	cut := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1000")
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	var serve http.Handler
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { serve.ServeHTTP(w, r) }))
	defer server.Close()
	remote, err := storage.OpenRemote(server.Listener.Addr().String(), storage.RemoteOptions{
		PlainHTTP:   true,
		Credentials: func(context.Context, string) (storage.Credential, error) { return storage.Credential{}, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer remote.Close()
	r := registrar.New(w.ledger, registrar.Options{Registry: host, Staging: w.store, Blobs: remote})
	n := 0
	for name, c := range map[string]struct {
		serve http.Handler
		doubt bool
		code  string
	}{
		"has it":            {serve: there},
		"has it not":        {serve: status(http.StatusNotFound), code: policy.CodePayloadMissing},
		"lets nobody":       {serve: status(http.StatusForbidden), code: policy.CodePayloadMissing},
		"knows no such":     {serve: status(http.StatusBadRequest), code: policy.CodePayloadMissing},
		"fails":             {serve: status(http.StatusInternalServerError), doubt: true},
		"is overrun":        {serve: status(http.StatusTooManyRequests), doubt: true},
		"answers nothing":   {serve: status(http.StatusNoContent), doubt: true},
		"breaks off":        {serve: http.HandlerFunc(cut), doubt: true},
		"leads to nowhere":  {serve: http.RedirectHandler("http://127.0.0.1:1/", http.StatusTemporaryRedirect), doubt: true},
		"leads in a circle": {serve: http.RedirectHandler("/v2/", http.StatusTemporaryRedirect), doubt: true},
	} {
		n++
		evidence := append(envelopetest.DSSE(t, envelopetest.InToto(t, w.image), ci), strings.Repeat(" ", n)...)
		there.blobs[digestOf(evidence)] = evidence
		serve = c.serve
		_, err := r.Register(t.Context(), w.hashed(evidence).Canonical(), ledger.Circumstances{Repository: repository, Scope: ledger.Public})
		var refusal *policy.Refusal
		refused := errors.As(err, &refusal)
		if c.doubt != errors.Is(err, policy.ErrLookup) || refused != (c.code != "") || refused && refusal.Code != c.code || !c.doubt && !refused && err != nil {
			t.Errorf("a registry that %s: %v", name, err)
		}
	}
}
