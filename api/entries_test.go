package api_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/scittd/scittd/api/apitype"
	"github.com/scittd/scittd/ledger/ledgertest"
	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/statement"
)

func base64url(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func TestEntryIsServedInEveryForm(t *testing.T) {
	w := newWorld(t)
	s, receipt := w.claim(w.wabbit, 1)
	id := s.ID().String()

	a := w.get("/entries/" + id)
	if a.status != 200 || a.header.Get("Content-Type") != "application/cose" || !bytes.Equal(a.body, receipt) {
		t.Errorf("receipt: %d %s", a.status, a.header.Get("Content-Type"))
	}
	for _, c := range []struct {
		path, kind string
		want       []byte
		immutable  bool
	}{
		{"/statement", "application/scitt-statement+cose", s.Canonical(), true},
		{"/receipt", "application/scitt-receipt+cose", receipt, true},
	} {
		a := w.get("/v1/entries/" + id + c.path)
		if a.status != 200 || a.header.Get("Content-Type") != c.kind || !bytes.Equal(a.body, c.want) {
			t.Errorf("%s: %d %s", c.path, a.status, a.header.Get("Content-Type"))
		}
		if got := a.header.Get("Cache-Control"); got != "public, max-age=31536000, immutable" || a.header.Get("ETag") != `"`+id+`"` {
			t.Errorf("%s: Cache-Control %q, ETag %s", c.path, got, a.header.Get("ETag"))
		}
	}
	a = w.get("/v1/entries/" + id + "/transparent")
	canonical, inside, err := receipts.SplitTransparent(a.body)
	if err != nil || !bytes.Equal(canonical, s.Canonical()) || len(inside) != 1 || !bytes.Equal(inside[0], receipt) {
		t.Errorf("Transparent Statement: %v, %d receipts", err, len(inside))
	}
	if a.header.Get("Content-Type") != "application/scitt-statement+cose" || a.header.Get("Cache-Control") != "no-cache" {
		t.Errorf("Transparent Statement: %v", a.header)
	}

	e := read[apitype.Entry](w, "/v1/entries/"+id)
	p, err := receipts.Parse(receipt)
	if err != nil {
		t.Fatal(err)
	}
	want := apitype.Entry{
		EntryID: id, Index: 2, RegisteredAt: p.IssuedAt.UTC(), Issuer: "https://wabbit.example",
		Subject: "pkg:oci/net-monitor@" + string(ledgertest.Image(1)), Artifacts: []string{string(ledgertest.Image(1))},
		MediaType: ledgertest.SBOM, Evidence: apitype.Evidence{Digest: string(s.Evidence()), State: "staged"}, Visibility: "public",
		Policy:   apitype.Judgement{Entry: w.ledger.Policy().Entry.String(), Rule: e.Policy.Rule},
		Identity: apitype.Identity{Kind: "key", Issuer: "https://wabbit.example", Thumbprint: e.Identity.Thumbprint},
		Links: apitype.Links{
			Self: "/v1/entries/" + id, Statement: "/v1/entries/" + id + "/statement", Receipt: "/entries/" + id,
			Transparent: "/v1/entries/" + id + "/transparent", Deliveries: "/v1/entries/" + id + "/deliveries",
			Collateral: "/v1/entries/" + id + "/collateral",
		},
	}
	if got, want := mustJSON(t, e), mustJSON(t, want); got != want {
		t.Errorf("entry\n%s\nwant\n%s", got, want)
	}
	if e.Policy.Rule == "" || len(e.Identity.Thumbprint) != 64 {
		t.Errorf("entry does not say why it was admitted: %+v", e)
	}
	for _, link := range []string{e.Links.Self, e.Links.Statement, e.Links.Receipt, e.Links.Transparent, e.Links.Deliveries} {
		if a := w.get(link); a.status != 200 {
			t.Errorf("link %s: %d", link, a.status)
		}
	}

	d := read[apitype.Deliveries](w, e.Links.Deliveries)
	var artifacts []string
	for _, d := range d.Deliveries {
		artifacts = append(artifacts, d.Artifact)
		if d.Registry != registryHost || d.Repository != "wabbit/net-monitor" || d.Subject != string(ledgertest.Image(1)) || d.State != "queued" || d.Manifest != "" {
			t.Errorf("delivery %+v", d)
		}
	}
	if slices.Sort(artifacts); !slices.Equal(artifacts, []string{"evidence", "transparency"}) {
		t.Errorf("deliveries of %v", artifacts)
	}
	if list := read[apitype.CollateralList](w, "/v1/entries/"+id+"/collateral"); list.Collateral == nil || len(list.Collateral) != 0 {
		t.Errorf("collateral of a pinned key: %+v", list)
	}
}

func mustJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestUnprotectedChainIsCollateralAndNeverInTheStatement(t *testing.T) {
	w := newWorld(t)
	s, _ := w.claim(w.certified, 1)
	id := s.ID().String()
	if a := w.get("/v1/entries/" + id + "/statement"); statement.SHA256(a.body).Bytes() == nil || idOf(a.body) != s.ID() {
		t.Errorf("SHA-256 of the statement is not its id")
	}
	list := read[apitype.CollateralList](w, "/v1/entries/"+id+"/collateral")
	if len(list.Collateral) != 1 || list.Collateral[0].Kind != "x5chain" || !bytes.Contains(list.Collateral[0].Data, w.certified.Chain[0]) {
		t.Errorf("collateral %+v", list)
	}
	parsed, err := statement.Parse(w.get("/v1/entries/" + id + "/transparent").body)
	if err != nil || len(parsed.Chain) == 0 || !bytes.Equal(parsed.Chain[0], w.certified.Chain[0]) || parsed.ID() != s.ID() {
		t.Errorf("the Transparent Statement lacks the chain: %v", err)
	}
}

func TestStatementsAreFoundByEveryFilter(t *testing.T) {
	w := newWorld(t)
	sbom, _ := w.claim(w.wabbit, 1)
	report := w.certified.Claim(t, ledgertest.Image(1), ledgertest.Report, []byte("report"))
	w.admitted(w.register(encode(t, w.certified, report), w.publisher), report)
	build := w.wabbit.Provenance(t, "https://slsa.dev/provenance/v1", ledgertest.Image(1), ledgertest.Image(2))
	w.admitted(w.register(build.Canonical(), w.publisher), build)

	name := map[string]string{sbom.ID().String(): "sbom", report.ID().String(): "report", build.ID().String(): "build"}
	for _, c := range []struct {
		query []string
		want  []string // newest first
	}{
		{[]string{"subject", string(ledgertest.Image(1))}, []string{"build", "report", "sbom"}},
		{[]string{"subject", string(ledgertest.Image(1))[7:]}, []string{"build", "report", "sbom"}},
		{[]string{"subject", string(ledgertest.Image(2))}, []string{"build"}},
		{[]string{"subject", string(ledgertest.Image(2)), "subject", string(ledgertest.Image(9))}, []string{"build"}},
		{[]string{"subject", string(ledgertest.Image(9))}, nil},
		{[]string{"evidence", string(sbom.Evidence())}, []string{"sbom"}},
		{[]string{"issuer", "https://wabbit.example"}, []string{"build", "sbom"}},
		{[]string{"issuer", "https://wabbit.example", "issuer", "https://certified.example"}, []string{"build", "report", "sbom"}},
		{[]string{"issuer", "https://wabbit.exampl"}, nil},
		{[]string{"mediaType", ledgertest.SBOM}, []string{"sbom"}},
		{[]string{"mediaType", "APPLICATION/vnd.cyclonedx+JSON; version=1.6"}, []string{"sbom"}},
		{[]string{"mediaType", ledgertest.SBOM, "mediaType", ledgertest.Report}, []string{"report", "sbom"}},
		{[]string{"predicateType", "https://slsa.dev/provenance/v1"}, []string{"build"}},
		{[]string{"issuer", "https://wabbit.example", "mediaType", ledgertest.Report}, nil},
		{[]string{"issuer", "https://wabbit.example", "subject", string(ledgertest.Image(1)), "mediaType", ledgertest.SBOM}, []string{"sbom"}},
		{[]string{"since", time.Now().Add(time.Hour).Format(time.RFC3339)}, nil},
		{[]string{"until", time.Now().Add(-time.Hour).Format(time.RFC3339)}, nil},
		{[]string{"since", time.Now().Add(-time.Hour).Format(time.RFC3339), "issuer", "https://certified.example"}, []string{"report"}},
	} {
		values := url.Values{}
		for i := 0; i < len(c.query); i += 2 {
			values.Add(c.query[i], c.query[i+1])
		}
		var got []string
		for _, e := range w.page(values.Encode()).Entries {
			got = append(got, name[e.EntryID])
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%v: got %v, want %v", c.query, got, c.want)
		}
	}

	page := w.page("mediaType=text/plain&subject=" + string(ledgertest.Image(1)))
	want := apitype.Found{
		Issuers:    []string{"https://certified.example", "https://wabbit.example"},
		MediaTypes: []string{ledgertest.SBOM, ledgertest.InToto, ledgertest.Report},
	}
	slices.Sort(want.MediaTypes)
	if page.Entries == nil || len(page.Entries) != 0 || page.Found == nil || !slices.Equal(page.Found.Issuers, want.Issuers) || !slices.Equal(page.Found.MediaTypes, want.MediaTypes) {
		t.Errorf("a miss says %s, want found %s", mustJSON(t, page), mustJSON(t, want))
	}
}

func TestSixtyRegistrationsAtOnceMakeSixtyEntries(t *testing.T) {
	w := newWorld(t)
	const n = 60
	claims := w.wabbit.Claims(t, 0, n)
	before := w.size()
	answers := make([]answer, n)
	var group sync.WaitGroup
	for i, s := range claims {
		group.Go(func() { answers[i] = w.register(s.Canonical(), w.publisher) })
	}
	group.Wait()
	indexes := map[uint64]bool{}
	for i, s := range claims {
		w.admitted(answers[i], s)
		indexes[read[apitype.Entry](w, "/v1/entries/"+s.ID().String()).Index] = true
	}
	if len(indexes) != n || w.size() != before+n {
		t.Errorf("%d distinct indexes, size grew by %d, want %d", len(indexes), w.size()-before, n)
	}
}

func TestOneStatementSixtyTimesAtOnceIsOneEntry(t *testing.T) {
	w := newWorld(t)
	s := w.wabbit.Claims(t, 0, 1)[0]
	before := w.size()
	answers := make([]answer, 60)
	var group sync.WaitGroup
	for i := range answers {
		group.Go(func() { answers[i] = w.register(s.Canonical(), w.publisher) })
	}
	group.Wait()
	for _, a := range answers {
		if !bytes.Equal(w.admitted(a, s), answers[0].body) {
			t.Error("two receipts for one statement")
		}
	}
	if w.size() != before+1 {
		t.Errorf("size grew by %d", w.size()-before)
	}
}

func TestHostileStatementsGetTheirTitleAndNoEntry(t *testing.T) {
	pem, err := os.ReadFile("../testdata/statements/issuer.pub")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("../testdata/statements/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []struct{ Name, Hex, Code, Title string }
	if err := json.Unmarshal(text, &vectors); err != nil {
		t.Fatal(err)
	}
	if len(vectors) < 100 {
		t.Fatalf("only %d vectors", len(vectors))
	}
	w := newWorld(t, pinned(t, "https://vectors.example", pem))
	before, admitted := w.size(), map[string]bool{}
	for _, v := range vectors {
		body, err := hex.DecodeString(v.Hex)
		if err != nil {
			t.Fatal(err)
		}
		a := w.register(body, w.publisher)
		if v.Code == "" {
			if a.status != 201 {
				t.Errorf("%s: %d %+v", v.Name, a.status, a.problem(t))
			}
			admitted[a.header.Get("Location")] = true
			continue
		}
		if p := a.refused(t, 400, v.Code); p.Title != v.Title || p.Code != v.Code {
			t.Errorf("%s: %s %q (%s), want %s %q", v.Name, p.Code, p.Title, p.Detail, v.Code, v.Title)
		}
	}
	if got := w.size() - before; got != uint64(len(admitted)) {
		t.Errorf("%d entries from %d good statements", got, len(admitted))
	}
	noise := make([]byte, statement.MaxSize)
	for i := range noise {
		noise[i] = byte(i * 7919 >> 3)
	}
	w.register(noise, w.publisher).refused(t, 400, "malformed-request")
}

func TestStrangersAreRejectedByRule(t *testing.T) {
	w := newWorld(t)
	stranger := ledgertest.NewPublisher(t, "https://stranger.example")
	s := stranger.Claim(t, ledgertest.Image(1), ledgertest.SBOM, []byte("sbom"))
	p := w.register(s.Canonical(), w.publisher).problem(t)
	if p.Title != "Rejected" || p.Rule == "" || p.Hint == "" || p.PolicyEntry != w.ledger.Policy().Entry.String() {
		t.Errorf("%+v", p)
	}
	impostor := ledgertest.NewPublisher(t, "https://wabbit.example")
	s = impostor.Claim(t, ledgertest.Image(1), ledgertest.SBOM, []byte("sbom"))
	if p := w.register(s.Canonical(), w.publisher).problem(t); p.Title != "Rejected" {
		t.Errorf("%+v", p)
	}
	w.get("/entries/"+s.ID().String()).refused(t, 404, "not-found")
}

func TestServiceAndPolicyDescribeThemselves(t *testing.T) {
	w := newWorld(t)
	got := read[apitype.Service](w, "/v1/service")
	want := apitype.Service{
		URL: publicURL, Origin: "scitt.example/log", LeafRule: got.LeafRule, Registry: registryHost, TreeSize: 2,
		PolicyEntry: w.ledger.Policy().Entry.String(), CheckpointKeys: w.ledger.Service().CheckpointKeys,
		Limits: apitype.Limits{Statement: 1 << 20, Evidence: 64 << 20, PageSize: 500, Artifacts: 256, BatchItems: 1000, BatchSize: 16 << 20},
	}
	if !reflect.DeepEqual(got, want) || got.LeafRule == "" || len(got.CheckpointKeys) != 1 {
		t.Errorf("service %+v, want %+v", got, want)
	}
	p := read[apitype.Policy](w, "/v1/policy")
	record, err := w.ledger.Record(context.Background(), w.ledger.Policy().Entry, 0)
	if err != nil {
		t.Fatal(err)
	}
	s, err := statement.Parse(record.Canonical)
	if err != nil {
		t.Fatal(err)
	}
	if p.Entry != w.ledger.Policy().Entry.String() || !bytes.Equal(p.Policy, s.Payload) {
		t.Errorf("policy of %s is not what the log has:\n%s\n%s", p.Entry, p.Policy, s.Payload)
	}
}

func TestEvidenceIsStagedOnceAndChecked(t *testing.T) {
	w := newWorld(t)
	put := func(digest string, body []byte, header ...string) answer {
		return w.send(request{"PUT", "/v1/evidence/" + digest, append(header, w.publisher), bytes.NewReader(body)})
	}
	content := bytes.Repeat([]byte("sbom "), 300_000) // 1.5 MB: more than one chunk
	digest := string(statement.SHA256(content))
	for i, want := range []int{201, 200, 200} {
		path := []string{digest, digest[7:], url.QueryEscape(digest)}[i]
		a := put(path, content)
		var e apitype.Staged
		if err := json.Unmarshal(a.body, &e); err != nil || a.status != want || e.Digest != digest || e.Size != int64(len(content)) {
			t.Errorf("time %d: %d %s, want %d", i+1, a.status, a.body, want)
		}
	}
	r, size, err := w.store.Staged(context.Background(), statement.Digest(digest))
	if err != nil || size != int64(len(content)) {
		t.Fatalf("staged: %d bytes, %v", size, err)
	}
	var got bytes.Buffer
	if _, err := got.ReadFrom(r); err != nil || !bytes.Equal(got.Bytes(), content) {
		t.Errorf("staged content differs: %v", err)
	}
	r.Close()

	a := put(digestA, []byte("something else"))
	a.refused(t, 409, "digest-mismatch")
	put("sha256:zz", nil).refused(t, 400, "bad-digest")
	put("md5:"+digest[7:39], nil).refused(t, 400, "bad-digest")
	put(digest, content, "Content-Encoding: gzip").refused(t, 415, "unsupported-media-type")
	if _, _, err := w.store.Staged(context.Background(), digestA); err == nil {
		t.Error("what does not match its digest is staged")
	}
	empty := string(statement.SHA256(nil))
	if a := put(empty, nil); a.status != 201 || string(a.body) != `{"digest":"`+empty+`","size":0}`+"\n" {
		t.Errorf("empty evidence: %d %s", a.status, a.body)
	}
}

func TestEvidenceLimitsHoldAtTheirEdge(t *testing.T) {
	w := newWorld(t)
	limits := w.api.Limits
	limits.Evidence, limits.StagingQuota = 1000, 1500
	small := w.with(limits)
	for _, c := range []struct {
		size   int
		status int
		code   string
	}{{1001, 413, "too-large"}, {5000, 413, "too-large"}, {1000, 201, ""}, {501, 429, "quota"}, {500, 201, ""}, {1, 429, "quota"}} {
		for name, chunked := range map[string]bool{"announced": false, "chunked": true} {
			content := bytes.Repeat([]byte{byte(c.size)}, c.size)
			q := request{"PUT", "/v1/evidence/" + string(statement.SHA256(content)), []string{w.publisher}, bytes.NewReader(content)}
			if chunked {
				q.body = struct{ *bytes.Buffer }{bytes.NewBuffer(content)}
			}
			a := small.send(q)
			if c.code == "" {
				if a.status != 200 && a.status != 201 {
					t.Errorf("%d bytes, %s: %d %s", c.size, name, a.status, a.body)
				}
				continue
			}
			p := a.refused(t, c.status, c.code)
			if c.status == 413 && (p.Detail != "The body exceeds the limit of 1000 bytes." || !strings.Contains(p.Hint, "repository")) {
				t.Errorf("%d bytes, %s: %q, hint %q", c.size, name, p.Detail, p.Hint)
			}
		}
	}
}
