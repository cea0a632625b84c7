package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/scittd/scittd/api"
	"github.com/scittd/scittd/api/apitype"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/ledgertest"
	"github.com/scittd/scittd/statement"
)

// post sends a body and decodes the JSON of a 200.
func post[T any](s *server, path string, body []byte, header ...string) (v T) {
	s.t.Helper()
	a := s.send(request{"POST", path, append(header, "Content-Type: application/cose"), bytes.NewReader(body)})
	if a.status != 200 {
		s.t.Fatalf("%s: %d %s", path, a.status, a.body)
	}
	if err := json.Unmarshal(a.body, &v); err != nil {
		s.t.Fatalf("%s: %v\n%s", path, err, a.body)
	}
	return v
}

func TestValidateSaysWhatRegisteringWouldAndChangesNothing(t *testing.T) {
	w := newWorld(t)
	stranger := ledgertest.NewPublisher(t, "https://mallory.example")
	before := w.size()
	for _, c := range []struct {
		name             string
		s                *statement.Statement
		decision, code   string
		visibility, rule string
	}{
		{"admitted", w.wabbit.Claim(t, ledgertest.Image(1), ledgertest.SBOM, []byte("sbom")), "allow", "", "public", "issuers[0].key"},
		{"admitted, private", w.vault.Claim(t, ledgertest.Image(1), ledgertest.SBOM, []byte("sbom")), "allow", "", "private", "issuers[1].key"},
		{"a stranger's", stranger.Claim(t, ledgertest.Image(1), ledgertest.SBOM, []byte("sbom")), "deny", "unknown-issuer-key", "", "issuers"},
		{"detached", w.wabbit.Sign(t, statement.Template{Subject: "x", Payload: []byte("y"), Detached: true}), "deny", "payload-missing", "", "payload"},
	} {
		got := post[apitype.Judged](w.server, "/v1/entries:validate", c.s.Canonical())
		if got.Decision != c.decision || got.Code != c.code || got.Visibility != c.visibility || got.Rule != c.rule ||
			got.EntryID != c.s.ID().String() || got.PolicyEntry != w.ledger.Policy().Entry.String() ||
			(got.Reason == "") != (c.decision == "allow") || (got.Hint == "") != (c.decision == "allow") {
			t.Errorf("%s: %+v", c.name, got)
		}
		if c.decision == "allow" && !slices.Equal(got.Artifacts, []string{string(ledgertest.Image(1))}) {
			t.Errorf("%s speaks about %v", c.name, got.Artifacts)
		}
	}
	if w.size() != before {
		t.Error("a dry run made an entry")
	}
	for name, c := range map[string]struct {
		path, contentType, body string
		status                  int
		code                    string
	}{
		"no statement":         {"/v1/entries:validate", "application/cose", "\xd2", 400, "malformed-request"},
		"another type":         {"/v1/entries:validate", "application/json", "{}", 415, "unsupported-media-type"},
		"too much":             {"/v1/entries:validate", "application/cose", strings.Repeat("x", statement.MaxSize+1), 413, "too-large"},
		"no digest":            {"/v1/entries:validate?evidence=x", "application/cose", "\xd2", 400, "bad-digest"},
		"evidence of a nobody": {"/v1/entries:validate?evidence=" + string(statement.SHA256(nil)), "application/cose", "\xd2", 401, "unauthenticated"},
	} {
		a := w.send(request{"POST", c.path, []string{"Content-Type: " + c.contentType}, strings.NewReader(c.body)})
		a.refused(t, c.status, c.code)
		if name == "" || a.header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %s", name, a.header.Get("Content-Type"))
		}
	}
}

// What is committed keeps its receipt under any policy, and a dry run says so to
// whoever may see it.
func TestValidateKnowsWhatIsRegistered(t *testing.T) {
	w := newWorld(t)
	payload := []byte("an SBOM")
	public := w.detached(w.wabbit, payload)
	private := w.detached(w.vault, payload)
	for s, header := range map[*statement.Statement][]string{public: nil, private: {w.both}} {
		if got := post[apitype.Judged](w.server, "/v1/entries:validate", s.Canonical(), header...); got.Decision != "allow" {
			t.Errorf("without its payload: %+v", got)
		}
	}
	if got := post[apitype.Judged](w.server, "/v1/entries:validate", private.Canonical()); got.Decision != "deny" {
		t.Errorf("a private entry shows: %+v", got)
	}
}

// detached stages payload and registers a statement of p over it.
func (w *world) detached(p *ledgertest.Publisher, payload []byte) *statement.Statement {
	w.t.Helper()
	s := p.Sign(w.t, statement.Template{Subject: "pkg:oci/net-monitor@" + string(ledgertest.Image(1)), ContentType: ledgertest.SBOM, Payload: payload, Detached: true})
	digest := string(statement.SHA256(payload))
	if a := w.send(request{"PUT", "/v1/evidence/" + digest, []string{w.publisher}, bytes.NewReader(payload)}); a.status != 201 && a.status != 200 {
		w.t.Fatalf("stage: %d %s", a.status, a.body)
	}
	a := w.send(request{"POST", "/entries?evidence=" + digest, []string{w.publisher, "Content-Type: application/cose"}, bytes.NewReader(s.Canonical())})
	w.admitted(a, s)
	return s
}

func TestADetachedStatementIsRegisteredOverItsStagedPayload(t *testing.T) {
	w := newWorld(t)
	payload := []byte(`{"spdxVersion":"SPDX-2.3"}`)
	cose := []string{w.publisher, "Content-Type: application/cose"}
	s := w.wabbit.Sign(t, statement.Template{Subject: "pkg:oci/net-monitor@" + string(ledgertest.Image(1)), ContentType: ledgertest.SBOM, Payload: payload, Detached: true})
	digest, other := string(statement.SHA256(payload)), []byte("something else")
	send := func(path string, body []byte) answer {
		return w.send(request{"POST", path, cose, bytes.NewReader(body)})
	}

	// Nothing is staged: both ways out are named.
	for _, path := range []string{"/entries", "/entries?evidence=" + digest} {
		p := send(path, s.Canonical()).refused(t, 400, "payload-missing")
		if !strings.Contains(p.Hint, "hash envelope") || !strings.Contains(p.Hint, "/v1/evidence/") || p.Title != "Payload Missing" {
			t.Errorf("%s: %q %q", path, p.Title, p.Hint)
		}
	}
	for _, content := range [][]byte{payload, other} {
		a := w.send(request{"PUT", "/v1/evidence/" + string(statement.SHA256(content)), cose[:1], bytes.NewReader(content)})
		if a.status != 201 {
			t.Fatalf("stage: %d", a.status)
		}
	}
	send("/entries", s.Canonical()).refused(t, 400, "payload-missing") // still not named
	send("/entries?evidence="+string(statement.SHA256(other)), s.Canonical()).refused(t, 400, "bad-signature")
	send("/entries?evidence=sha256:xx", s.Canonical()).refused(t, 400, "bad-digest")
	send("/entries?evidence="+digest+"&evidence="+digest, s.Canonical()).refused(t, 400, "bad-filter")
	envelope := w.wabbit.Claim(t, ledgertest.Image(1), ledgertest.SBOM, payload)
	send("/entries?evidence="+string(statement.SHA256(other)), envelope.Canonical()).refused(t, 400, "rejected")
	w.admitted(send("/entries?evidence="+digest, envelope.Canonical()), envelope)

	receipt := w.admitted(send("/entries?evidence="+digest, s.Canonical()), s)
	e := read[apitype.Entry](w, "/v1/entries/"+s.ID().String())
	if e.Evidence.Digest != digest || !slices.Equal(e.Artifacts, []string{string(ledgertest.Image(1))}) {
		t.Errorf("entry %+v", e)
	}
	found := read[apitype.EntryList](w, "/v1/entries?evidence="+digest)
	if len(found.Entries) != 2 {
		t.Errorf("%d entries are found by the evidence, want 2", len(found.Entries))
	}
	kept := read[apitype.CollateralList](w, "/v1/entries/"+s.ID().String()+"/collateral")
	if len(kept.Collateral) != 1 || kept.Collateral[0].Kind != ledger.PayloadCollateral || string(kept.Collateral[0].Data) != digest {
		t.Errorf("collateral %+v", kept)
	}

	// The payload goes: entry, statement and receipt stay as they were.
	if err := w.store.Sweep(context.Background(), time.Now().Add(48*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if again := send("/entries", s.Canonical()); again.status != 201 || !bytes.Equal(again.body, receipt) {
		t.Errorf("resubmitted without the payload: %d", again.status)
	}
	if a := w.get("/v1/entries/" + s.ID().String() + "/statement"); !bytes.Equal(a.body, s.Canonical()) {
		t.Error("the statement is not the one that was registered")
	}
}

func TestCheckAnswersAnyAndAll(t *testing.T) {
	w := newWorld(t)
	wabbit, _ := w.claim(w.wabbit, 1)
	certified, _ := w.claim(w.certified, 1)
	image := string(ledgertest.Image(1))
	const nobody = "https://nobody.example"
	one, both := []string{wabbit.Issuer}, []string{wabbit.Issuer, certified.Issuer}
	for name, c := range map[string]struct {
		require   apitype.Requirement
		satisfied bool
		entries   int
		missing   []string
		others    []string
	}{
		"anybody":              {apitype.Requirement{}, true, 2, nil, nil},
		"one of one":           {apitype.Requirement{Issuers: one}, true, 1, nil, nil},
		"any of two":           {apitype.Requirement{Issuers: []string{nobody, wabbit.Issuer}, Match: "any"}, true, 1, nil, nil},
		"all of two":           {apitype.Requirement{Issuers: both, Match: "all", MediaType: ledgertest.SBOM}, true, 2, nil, nil},
		"all, and one lacks":   {apitype.Requirement{Issuers: []string{wabbit.Issuer, nobody}, Match: "all"}, false, 1, []string{nobody}, []string{certified.Issuer}},
		"nobody that counts":   {apitype.Requirement{Issuers: []string{nobody}}, false, 0, []string{nobody}, []string{certified.Issuer, wabbit.Issuer}},
		"another media type":   {apitype.Requirement{MediaType: "application/sarif+json", Issuers: one}, false, 0, one, nil},
		"media type as people": {apitype.Requirement{MediaType: "Application/Vnd.CycloneDX+json; version=1.6", Issuers: one}, true, 1, nil, nil},
		"predicate type":       {apitype.Requirement{PredicateType: "https://slsa.dev/provenance/v1"}, false, 0, nil, nil},
	} {
		body, err := json.Marshal(apitype.Check{Subject: image, Require: []apitype.Requirement{c.require}})
		if err != nil {
			t.Fatal(err)
		}
		got := post[apitype.Checked](w.server, "/v1/check", body)
		if len(got.Results) != 1 {
			t.Fatalf("%s: %d results", name, len(got.Results))
		}
		r := got.Results[0]
		if got.Satisfied != c.satisfied || r.Satisfied != c.satisfied || len(r.Entries) != c.entries || !slices.Equal(r.Missing, c.missing) || !slices.Equal(r.OtherIssuers, c.others) {
			t.Errorf("%s: %+v", name, got)
		}
		if got.IndexedThrough != w.size() || got.Subject != image || !strings.HasPrefix(got.Checkpoint, w.ledger.Service().Origin+"\n") {
			t.Errorf("%s: through %d, checkpoint %q", name, got.IndexedThrough, got.Checkpoint)
		}
	}
	two := post[apitype.Checked](w.server, "/v1/check", []byte(`{"subject":"`+image+`","require":[{},{"issuers":["`+nobody+`"]}]}`))
	if two.Satisfied || !two.Results[0].Satisfied || two.Results[1].Satisfied {
		t.Errorf("one of two requirements is met: %+v", two)
	}
	get := read[apitype.Checked](w, "/v1/check?subject="+image+"&issuer="+wabbit.Issuer+"&issuer="+nobody+"&match=all")
	if get.Satisfied || len(get.Results[0].Entries) != 1 {
		t.Errorf("by GET: %+v", get)
	}
}

// An issuer's claim counts however many of others are newer.
func TestCheckFindsAnOldClaimBehindAPageOfNewOnes(t *testing.T) {
	var asked []ledger.Query
	old := "https://old.example"
	s := serve(t, api.Config{Registrar: failing(nil), Ledger: &finding{find: func(q ledger.Query) []ledger.Entry {
		asked = append(asked, q)
		if slices.Equal(q.Issuers, []string{old}) {
			return []ledger.Entry{{Issuer: old}}
		}
		return slices.Repeat([]ledger.Entry{{Issuer: "https://new.example"}}, q.Limit)
	}}})
	got := post[apitype.Checked](s, "/v1/check", []byte(`{"subject":"`+string(ledgertest.Image(1))+`","require":[{"issuers":["`+old+`"]}]}`))
	if !got.Satisfied || len(asked) != 2 {
		t.Errorf("%+v after %d queries", got, len(asked))
	}
}

// finding is a ledger that finds what it is told to.
type finding struct {
	fixedLedger
	find func(ledger.Query) []ledger.Entry
}

func (l *finding) Find(_ context.Context, q ledger.Query) ([]ledger.Entry, error) {
	return l.find(q), nil
}

func (l *finding) Checkpoint(context.Context) ([]byte, error) { return nil, ledger.ErrReadOnly }

func TestCheckRefusesWhatItDoesNotUnderstand(t *testing.T) {
	w := newWorld(t)
	image := string(ledgertest.Image(1))
	many := func(n int, s string) string { return strings.TrimSuffix(strings.Repeat(s+",", n), ",") }
	for body, code := range map[string]string{
		``:                            "malformed-request",
		`{`:                           "malformed-request",
		`[]`:                          "malformed-request",
		`{"subject":"` + image + `"}`: "bad-filter",
		`{"subject":"` + image + `","require":[]}`:                                       "bad-filter",
		`{"subject":"` + image + `","require":[{}]} {}`:                                  "malformed-request",
		`{"subject":"` + image + `","require":[{"issuer":"x"}]}`:                         "malformed-request",
		`{"subject":"` + image + `","require":[{"match":"most"}]}`:                       "bad-filter",
		`{"subject":"` + image + `","require":[{"issuers":[""]}]}`:                       "bad-filter",
		`{"subject":"` + image + `","require":[` + many(21, `{}`) + `]}`:                 "bad-filter",
		`{"subject":"` + image + `","require":[{"issuers":[` + many(101, `"x"`) + `]}]}`: "bad-filter",
		`{"subject":"net-monitor","require":[{}]}`:                                       "bad-digest",
		`{"require":[{}]}`: "bad-digest",
	} {
		w.send(request{"POST", "/v1/check", nil, strings.NewReader(body)}).refused(t, 400, code)
	}
	for query, code := range map[string]string{
		"": "bad-filter", "subject=x": "bad-digest", "subject=" + image + "&subject=" + image: "bad-filter",
		"subject=" + image + "&repository=x": "bad-filter", "subject=" + image + "&match=most": "bad-filter", "subject=%zz": "bad-filter",
		"subject=" + image + "&issuer=": "bad-filter",
	} {
		w.get("/v1/check?"+query).refused(t, 400, code)
	}
	w.send(request{"POST", "/v1/check", nil, strings.NewReader(strings.Repeat(" ", 65<<10))}).refused(t, 413, "too-large")
}

func TestTheExtensionAnswersAsThePlainAPI(t *testing.T) {
	w := newWorld(t)
	here, receipt := w.claim(w.wabbit, 1) // placed elsewhere
	extension := serveExtension(t, w.api)
	inRepository := w.certified.Claim(t, ledgertest.Image(1), ledgertest.SBOM, []byte("sbom"))
	register := []string{w.publisher, "Content-Type: application/cose"}
	w.admitted(extension.send(request{"POST", "/v2/team/x/_scitt/entries/register", register, bytes.NewReader(encode(t, w.certified, inRepository))}), inRepository)

	// Of the whole registry: the same bytes.
	for plain, module := range map[string]string{
		"/v1/entries/" + here.ID().String() + "/receipt":     "receipts/" + here.ID().String(),
		"/v1/entries/" + here.ID().String() + "/transparent": "statements/" + here.ID().String(),
		"/.well-known/scitt-keys":                            "keys/set",
		"/log/checkpoint":                                    "log/checkpoint",
	} {
		a, b := w.get(plain), extension.get("/v2/_scitt/"+module)
		if a.status != 200 || b.status != 200 || !bytes.Equal(a.body, b.body) || a.header.Get("Content-Type") != b.header.Get("Content-Type") {
			t.Errorf("%s: %d, %s: %d", plain, a.status, module, b.status)
		}
	}
	if a := extension.get("/v2/_scitt/receipts/" + here.ID().String()); !bytes.Equal(a.body, receipt) {
		t.Error("another receipt than the one that registering answered with")
	}

	// Of a repository: what is placed there.
	image := string(ledgertest.Image(1))
	for repository, want := range map[string]string{"team/x": inRepository.ID().String(), "acme/app": ""} {
		base := "/v2/" + repository + "/_scitt/entries/"
		var list apitype.EntryList
		if a := extension.get(base + "list?subject=" + image); a.status != 200 || json.Unmarshal(a.body, &list) != nil {
			t.Fatalf("list: %d %s", a.status, a.body)
		}
		checked := post[apitype.Checked](extension, base+"check", []byte(`{"subject":"`+image+`","require":[{}]}`))
		switch {
		case want == "" && (len(list.Entries) != 0 || checked.Satisfied):
			t.Errorf("%s: %+v, %+v", repository, list, checked)
		case want != "" && (len(list.Entries) != 1 || list.Entries[0].EntryID != want || !slices.Equal(checked.Results[0].Entries, []string{want})):
			t.Errorf("%s: %+v, %+v", repository, list, checked)
		}
	}
	elsewhere := w.wabbit.Sign(t, statement.Template{Subject: registryHost + "/wabbit/other@" + image, Payload: []byte("x")})
	judged := post[apitype.Judged](extension, "/v2/wabbit/net-monitor/_scitt/entries/validate", elsewhere.Canonical())
	if judged.Decision != "deny" || judged.Code != "repository-mismatch" {
		t.Errorf("validate: %+v", judged)
	}
	extension.send(request{"POST", "/v2/wabbit/net-monitor/_scitt/entries/register", register, bytes.NewReader(elsewhere.Canonical())}).refused(t, 400, "repository-mismatch")
	extension.send(request{"POST", "/v2/wabbit/net-monitor/_scitt/entries/register?subject=" + string(ledgertest.Image(2)), register, bytes.NewReader(here.Canonical())}).refused(t, 400, "subject-mismatch")

	for _, path := range []string{"receipts/" + strings.Repeat("0", 64), "statements/" + strings.Repeat("0", 64)} {
		extension.get("/v2/_scitt/"+path).refused(t, 404, "not-found")
	}
	extension.get("/v2/_scitt/receipts/x").refused(t, 400, "invalid-locator")
	for _, path := range []string{"receipts", "receipts/", "receipts/a/b", "keys", "entries/list", "nothing"} {
		p := extension.get("/v2/_scitt/"+path).refused(t, 404, "not-found")
		if len(p.Errors) != 1 || p.Errors[0].Code != "EXTENSION_UNKNOWN" {
			t.Errorf("%s: registry clients read %+v", path, p.Errors)
		}
	}
	for _, method := range []string{"POST", "PUT", "DELETE"} {
		a := extension.send(request{method: method, path: "/v2/_scitt/keys/set"})
		a.refused(t, 405, "method-not-allowed")
		if a.header.Get("Allow") != "GET, HEAD" {
			t.Errorf("Allow %q", a.header.Get("Allow"))
		}
	}
}

func TestAPageOfARepositoryLinksToTheNextOne(t *testing.T) {
	w := newWorld(t)
	extension := serveExtension(t, w.api)
	for n := range 3 {
		s := w.wabbit.Claim(t, ledgertest.Image(n), ledgertest.SBOM, fmt.Append(nil, n))
		a := extension.send(request{"POST", "/v2/wabbit/app/_scitt/entries/register", []string{w.publisher, "Content-Type: application/cose"}, bytes.NewReader(s.Canonical())})
		w.admitted(a, s)
	}
	seen := 0
	for path := "/v2/wabbit/app/_scitt/entries/list?limit=2"; path != ""; {
		a := extension.get(path)
		var page apitype.EntryList
		if a.status != 200 || json.Unmarshal(a.body, &page) != nil {
			t.Fatalf("%s: %d %s", path, a.status, a.body)
		}
		seen += len(page.Entries)
		path, _, _ = strings.Cut(strings.TrimPrefix(a.header.Get("Link"), "<"), ">")
		if path != "" && !strings.HasPrefix(path, "/v2/wabbit/app/_scitt/entries/list?") {
			t.Fatalf("Link leads to %s", path)
		}
	}
	if seen != 3 {
		t.Errorf("%d entries on all pages, want 3", seen)
	}
}

func TestRefusedPushesAreListed(t *testing.T) {
	w := newWorld(t)
	extension := serveExtension(t, w.api)
	for n, repository := range []string{"wabbit/app", "acme/app"} {
		err := w.store.NoteRefusal(t.Context(), ledger.PushRefusal{
			Repository: repository, Manifest: statement.SHA256(fmt.Append(nil, n)), Image: ledgertest.Image(n), Entry: statement.ID{1},
			Issuer: "https://mallory.example", Code: "rejected", Rule: "issuers", Reason: "who?", Hint: "ask", At: time.Unix(1_800_000_000, 0),
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	all := read[apitype.PushRefusals](w, "/v1/refusals", w.reader)
	if len(all.Refusals) != 2 || all.Refusals[0].Repository != "acme/app" || all.Refusals[0].PolicyEntry != "" || all.Refusals[0].EntryID == "" {
		t.Errorf("all: %+v", all)
	}
	for _, path := range []string{"/v1/refusals?repository=wabbit/app", "/v1/refusals?subject=" + string(ledgertest.Image(0)), "/v1/refusals?repository=wabbit/app&limit=1"} {
		if got := read[apitype.PushRefusals](w, path, w.reader); len(got.Refusals) != 1 || got.Refusals[0].Repository != "wabbit/app" {
			t.Errorf("%s: %+v", path, got)
		}
	}
	var one apitype.PushRefusals
	if a := extension.get("/v2/wabbit/app/_scitt/entries/refused", w.reader); a.status != http.StatusOK || json.Unmarshal(a.body, &one) != nil || len(one.Refusals) != 1 {
		t.Errorf("of a repository: %d %s", a.status, a.body)
	}
	extension.get("/v2/wabbit/app/_scitt/entries/refused?repository=acme/app", w.reader).refused(t, 400, "bad-filter")
	for _, query := range []string{"limit=0", "limit=501", "limit=x", "x=y", "repository=NO", "subject=x", "limit=1&limit=2", "%zz"} {
		if a := w.get("/v1/refusals?"+query, w.reader); a.status != 400 {
			t.Errorf("%s: %d", query, a.status)
		}
	}
}

func TestRefusedPushesAreShownToThoseWhoMaySeeWhatWasPushed(t *testing.T) {
	w := newWorld(t)
	const path = "/v2/wabbit/app/_scitt/entries/refused"
	ask := func(a *api.API, vouch bool) int {
		r := httptest.NewRequest("GET", path, nil)
		if vouch {
			r = api.Vouched(r, registryHost, false)
		}
		answer := httptest.NewRecorder()
		a.Extension(answer, r, "wabbit/app", "entries/refused")
		return answer.Code
	}
	if got := ask(w.api, false); got != http.StatusUnauthorized {
		t.Errorf("anybody: %d", got)
	}
	if got := ask(w.api, true); got != http.StatusOK {
		t.Errorf("who may pull there: %d", got)
	}
	open := api.New(api.Config{Ledger: w.ledger, Registrar: accepting(), Refusals: w.store, OpenPulls: true})
	if got := ask(open, false); got != http.StatusOK {
		t.Errorf("anybody, of a registry that is open: %d", got)
	}
}
