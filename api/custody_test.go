package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/scittd/scittd/api"
	"github.com/scittd/scittd/api/apitype"
	"github.com/scittd/scittd/internal/registrar"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/ledgertest"
	"github.com/scittd/scittd/statement"
	"github.com/scittd/scittd/storage"
	"github.com/scittd/scittd/storage/embedded"
)

// keeper makes the world's custodian, whose registry is there when it is needed.
func (w *world) keeper(t *testing.T) *registrar.Custodian {
	w.registry = sync.OnceValue(func() *embedded.Registry {
		registry, err := embedded.Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := registry.Close(); err != nil {
				t.Error(err)
			}
		})
		return registry
	})
	w.custodian = registrar.NewCustodian(w.ledger, w.store, func(string) (storage.Registry, error) { return w.registry(), nil },
		registrar.CustodianOptions{Owner: "test", Registry: registryHost, Poll: time.Millisecond})
	return w.custodian
}

// stage puts evidence where the Courier would look for it.
func (w *world) stage(content string) {
	w.t.Helper()
	limits := ledger.StagingLimits{MaxSize: 1 << 20, Quota: 1 << 20, Keep: time.Hour}
	if _, err := w.store.Stage(context.Background(), statement.SHA256([]byte(content)), strings.NewReader(content), limits); err != nil {
		w.t.Fatal(err)
	}
}

// place settles the evidence of s as placed, with its blob in the registry.
func (w *world) place(s *statement.Statement, content string) {
	w.t.Helper()
	deliveries, err := w.store.Deliveries(context.Background(), s.ID(), ledger.All)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, d := range deliveries {
		if d.Artifact != ledger.EvidenceArtifact {
			continue
		}
		repo, err := w.registry().Repository(d.Repository)
		if err == nil {
			err = repo.PushBlob(context.Background(), string(s.Evidence()), int64(len(content)), func() (io.ReadCloser, error) {
				return io.NopCloser(strings.NewReader(content)), nil
			})
		}
		if err != nil {
			w.t.Fatal(err)
		}
		d.State, d.Tries, d.Manifest, d.Size = ledger.Done, 1, ledgertest.Image(77), int64(len(content))
		if err := w.store.Settle(context.Background(), "courier", d); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *world) purger() string { return w.token(w.t, "purger", "purge") }

// evidence is that of an entry as the API shows it.
func (w *world) evidence(s *statement.Statement, header ...string) apitype.Evidence {
	w.t.Helper()
	return read[apitype.Entry](w, "/v1/entries/"+s.ID().String(), header...).Evidence
}

func TestEvidenceIsGivenInRangesOfWhatWasPlaced(t *testing.T) {
	w := newWorld(t)
	s, _ := w.claim(w.wabbit, 1)
	content := "sbom 1 of " + w.wabbit.Name
	n := len(content)
	w.place(s, content)
	path := "/v1/entries/" + s.ID().String() + "/evidence"
	etag := `"` + string(s.Evidence()) + `"`
	for _, c := range []struct {
		header []string
		status int
		want   string
	}{
		{nil, 200, content},
		{[]string{"Range: bytes=0-3"}, 206, content[:4]},
		{[]string{"Range: bytes=5-"}, 206, content[5:]},
		{[]string{"Range: bytes=-4"}, 206, content[n-4:]},
		{[]string{"Range: bytes=-4000"}, 206, content},
		{[]string{"Range: bytes=3-4000"}, 206, content[3:]},
		{[]string{"Range: bytes=0-3", "If-Range: " + etag}, 206, content[:4]},
		{[]string{"Range: bytes=0-3", `If-Range: "sha256:other"`}, 200, content},
		{[]string{"Range: bytes=0-1,3-4"}, 200, content},
		{[]string{"Range: bytes=4-3"}, 200, content},
		{[]string{"Range: bytes=x"}, 200, content},
		{[]string{"Range: bytes=99999999999999999999-"}, 200, content},
		{[]string{"Range: lines=1-2"}, 200, content},
	} {
		a := w.get(path, c.header...)
		if a.status != c.status || string(a.body) != c.want || a.header.Get("Content-Length") != fmt.Sprint(len(c.want)) {
			t.Errorf("%v: %d %q, want %d %q", c.header, a.status, a.body, c.status, c.want)
		}
		if a.header.Get("ETag") != etag || a.header.Get("Content-Disposition") != "attachment" || !strings.Contains(a.header.Get("Content-Security-Policy"), "sandbox") {
			t.Errorf("%v: %v", c.header, a.header)
		}
	}
	for _, beyond := range []string{fmt.Sprintf("bytes=%d-", n), "bytes=-0"} {
		a := w.get(path, "Range: "+beyond)
		a.refused(t, 416, "bad-range")
		if a.header.Get("Content-Range") != fmt.Sprintf("bytes */%d", n) {
			t.Errorf("%s: Content-Range %q", beyond, a.header.Get("Content-Range"))
		}
	}
	if a := w.send(request{method: "HEAD", path: path, header: []string{"Range: bytes=0-3"}}); a.status != 206 || len(a.body) != 0 || a.header.Get("Content-Length") != "4" {
		t.Errorf("HEAD: %d %q %v", a.status, a.body, a.header)
	}
}

func TestEvidenceOfAPayloadIsItsStatements(t *testing.T) {
	w := newWorld(t)
	s := w.wabbit.Provenance(t, "https://slsa.dev/provenance/v1", ledgertest.Image(1))
	w.admitted(w.register(s.Canonical(), w.publisher), s)
	if a := w.get("/v1/entries/" + s.ID().String() + "/evidence"); a.status != 200 || !bytes.Equal(a.body, s.Payload) {
		t.Errorf("evidence: %d %q", a.status, a.body)
	}
}

func TestPurgedEvidenceIsGoneAndSaysWhatStillHolds(t *testing.T) {
	w := newWorld(t)
	first, receipt := w.claim(w.wabbit, 1)
	content := "sbom 1 of " + w.wabbit.Name
	shares := w.wabbit.Claim(t, ledgertest.Image(2), ledgertest.Report, []byte(content))
	w.admitted(w.register(shares.Canonical(), w.publisher), shares)
	w.place(first, content)
	w.stage(content)
	path := "/v1/entries/" + first.ID().String() + "/evidence"
	purger := w.purger()
	for range 2 { // the second time changes nothing
		a := w.send(request{"POST", path + ":purge", []string{purger}, strings.NewReader(`{"reason":"asked for"}`)})
		var e apitype.Evidence
		if a.status != 200 || json.Unmarshal(a.body, &e) != nil || e.State != "purged" || e.Size != int64(len(content)) || e.Reason != "asked for" || e.By != "" {
			t.Fatalf("purge: %d %s", a.status, a.body)
		}
	}
	for _, s := range []*statement.Statement{first, shares} {
		a := w.get("/v1/entries/" + s.ID().String() + "/evidence")
		a.refused(t, http.StatusGone, "evidence-purged")
		var p apitype.Problem
		if err := json.Unmarshal(a.body, &p); err != nil || p.Title != "Evidence purged" || p.Digest != string(first.Evidence()) || p.Size != int64(len(content)) ||
			p.MediaType != s.MediaType() || p.PurgedAt == nil || p.Links == nil || p.Links.Transparent == "" || p.EntryID != s.ID().String() {
			t.Errorf("410: %s", a.body)
		}
		if e := w.evidence(s, w.reader); e.State != "purged" || !strings.Contains(e.By, "purger") {
			t.Errorf("evidence %+v", e)
		}
	}
	if a := w.get("/v1/entries/" + first.ID().String() + "/receipt"); !bytes.Equal(a.body, receipt) {
		t.Error("the receipt changed")
	}
	if a := w.get("/v1/entries/" + first.ID().String() + "/statement"); !bytes.Equal(a.body, first.Canonical()) {
		t.Error("the statement changed")
	}
	list := read[apitype.EntryList](w, "/v1/entries?evidence="+string(first.Evidence()))
	if len(list.Entries) != 2 || list.Entries[0].Evidence.State != "purged" || list.Entries[1].Evidence.PurgedAt == nil {
		t.Errorf("list %+v", list.Entries)
	}

	// The blob goes from the registry.
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { w.custodian.Run(ctx) })
	defer running.Wait()
	defer stop()
	repo, err := w.registry().Repository("wabbit/net-monitor")
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		if _, there, err := repo.HasBlob(ctx, string(first.Evidence())); err != nil || time.Now().After(deadline) {
			t.Fatalf("the blob is there: %v", err)
		} else if !there {
			break
		}
	}
}

func TestMissingEvidenceIsNotFoundUntilItIsDeclared(t *testing.T) {
	w := newWorld(t)
	s, _ := w.claim(w.wabbit, 1)
	w.place(s, "sbom 1 of "+w.wabbit.Name)
	deliveries, err := w.store.Deliveries(t.Context(), s.ID(), ledger.All)
	if err != nil {
		t.Fatal(err)
	}
	d := deliveries[slices.IndexFunc(deliveries, func(d ledger.Delivery) bool { return d.Artifact == ledger.EvidenceArtifact })]
	seen := func(there bool) {
		t.Helper()
		if err := w.custodian.Seen(t.Context(), d, s.Evidence(), there); err != nil {
			t.Fatal(err)
		}
	}
	path := "/v1/entries/" + s.ID().String() + "/evidence"
	seen(false)
	w.get(path).refused(t, 404, "evidence-missing")
	if e := w.evidence(s); e.State != "missing" || e.MissingSince == nil || e.PurgedAt != nil {
		t.Errorf("evidence %+v", e)
	}
	seen(true)
	if a := w.get(path); a.status != 200 {
		t.Errorf("found again: %d", a.status)
	}
	seen(false)
	if a := w.send(request{method: "POST", path: path + ":purge", header: []string{w.purger()}}); a.status != 200 {
		t.Errorf("declared: %d %s", a.status, a.body)
	}
	seen(true)
	w.get(path).refused(t, http.StatusGone, "evidence-purged")
}

func TestAPurgeIsReadStrictly(t *testing.T) {
	w := newWorld(t)
	s, _ := w.claim(w.wabbit, 1)
	private, _ := w.claim(w.vault, 2)
	purger := w.purger()
	purge := func(id, body string) answer {
		return w.send(request{"POST", "/v1/entries/" + id + "/evidence:purge", []string{purger}, strings.NewReader(body)})
	}
	for _, body := range []string{`{`, `[]`, `{"why":"x"}`, `{"reason":"x"} {}`, `{"reason":"` + strings.Repeat("x", 501) + `"}`, `{"reason":"\u0000"}`} {
		purge(s.ID().String(), body).refused(t, 400, "malformed-request")
	}
	purge(s.ID().String(), `{"reason":"`+strings.Repeat("x", 5000)+`"}`).refused(t, 413, "too-large")
	purge("abc", "").refused(t, 400, "invalid-locator")
	unknown := purge(strings.Repeat("0", 64), "")
	unknown.refused(t, 404, "not-found")
	sameAnswer(t, "purge of what this token may not see", purge(private.ID().String(), ""), unknown)
	if e := w.evidence(s); e.State != "staged" {
		t.Errorf("evidence %+v", e)
	}
}

// indexOf is an image index that lists digests.
func indexOf(digests ...statement.Digest) []byte {
	var list []map[string]any
	for _, d := range digests {
		list = append(list, map[string]any{"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": d, "size": 2})
	}
	body, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": list})
	if err != nil {
		panic(err)
	}
	return body
}

func TestClaimsOfAnIndexAnswerForItsInstances(t *testing.T) {
	w := newWorld(t)
	index := indexOf(ledgertest.Image(1), ledgertest.Image(2))
	digest := statement.SHA256(index)
	about := w.wabbit.Claim(t, digest, ledgertest.SBOM, []byte("of all"))
	hidden := w.vault.Claim(t, digest, ledgertest.SBOM, []byte("of all"))
	for _, s := range []*statement.Statement{about, hidden} {
		w.admitted(w.register(s.Canonical(), w.publisher), s)
	}
	one, _ := w.claim(w.wabbit, 1)
	put := func(digest statement.Digest, body []byte) answer {
		return w.send(request{"PUT", "/v1/indexes/" + string(digest), []string{w.publisher}, bytes.NewReader(body)})
	}
	type found struct{ id, via, instance string }
	list := func(query string, header ...string) []found {
		t.Helper()
		var all []found
		for _, e := range read[apitype.EntryList](w, "/v1/entries?"+query, header...).Entries {
			all = append(all, found{e.EntryID, e.Via, e.Instance})
		}
		return all
	}
	expect := func(got []found, want ...found) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("found %v, want %v", got, want)
		}
	}
	expect(list("subject="+string(ledgertest.Image(1))), found{one.ID().String(), "", ""})
	if a := put(digest, index); a.status != 204 {
		t.Fatalf("PUT index: %d %s", a.status, a.body)
	}
	via := found{about.ID().String(), string(digest), ""}
	expect(list("subject="+string(ledgertest.Image(1))), found{one.ID().String(), "", ""}, via)
	expect(list("subject="+string(ledgertest.Image(2))), via)
	expect(list("subject="+string(ledgertest.Image(2)), w.reader), found{hidden.ID().String(), string(digest), ""}, via)
	expect(list("subject="+string(digest)), found{about.ID().String(), "", ""})
	expect(list("subject="+string(digest)+"&instances=true"), found{one.ID().String(), "", string(ledgertest.Image(1))}, found{about.ID().String(), "", ""})
	w.get("/v1/entries?instances=perhaps").refused(t, 400, "bad-filter")

	checked := read[apitype.Checked](w, "/v1/check?subject="+string(ledgertest.Image(2))+"&mediaType="+strings.ReplaceAll(ledgertest.SBOM, "+", "%2B"))
	if !checked.Satisfied || checked.Results[0].Via[about.ID().String()] != string(digest) {
		t.Errorf("check: %+v", checked)
	}

	// What is no index is refused, and nothing of it is kept.
	put(ledgertest.Image(3), index).refused(t, 409, "digest-mismatch")
	for name, body := range map[string][]byte{
		"no JSON": []byte("x"), "no manifests": []byte(`{"manifests":[]}`), "an image": []byte(`{"config":{},"manifests":[{"digest":"` + string(digest) + `"}]}`),
		"bad digests": []byte(`{"manifests":[{"digest":"sha256:..%2f"},{"digest":"md5:00"},{}]}`), "numbers": []byte(`{"manifests":[1,2]}`),
		"referrers": []byte(`{"manifests":[{"digest":"` + string(digest) + `","artifactType":"application/x"}]}`),
	} {
		if a := put(statement.SHA256(body), body); a.status != 400 {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	many := make([]statement.Digest, 20_000)
	for i := range many {
		many[i] = ledgertest.Image(1000 + i)
	}
	huge := indexOf(many...)
	put(statement.SHA256(huge), huge).refused(t, 413, "too-large")
	put(statement.SHA256(nil), bytes.Repeat([]byte("x"), 4<<20+1)).refused(t, 413, "too-large")
}

var _ api.Custodian = (*registrar.Custodian)(nil)
