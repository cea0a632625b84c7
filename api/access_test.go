package api_test

import (
	"bytes"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/scittd/scittd/api"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/ledgertest"
	"github.com/scittd/scittd/statement"
)

// TestEveryEndpointShowsAndTakesWhatItsCallerMay goes through every route as
// every caller, for a public, a private and an unknown entry.
func TestEveryEndpointShowsAndTakesWhatItsCallerMay(t *testing.T) {
	w := newWorld(t)
	public, _ := w.claim(w.wabbit, 1)
	private, _ := w.claim(w.vault, 2)
	unknown := w.vault.Claim(t, ledgertest.Image(3), ledgertest.SBOM, []byte("never sent"))

	type caller struct {
		name           string
		header         []string
		reads, publish bool
	}
	callers := []caller{
		{"anonymous", nil, false, false},
		{"reader", []string{w.reader}, true, false},
		{"publisher", []string{w.publisher}, false, true},
		{"both", []string{w.both}, true, true},
	}
	tested := map[string]bool{}

	// Reads of one entry: shown, or byte for byte the answer for an unknown one.
	for _, pattern := range []string{
		"/entries/{id}", "/v1/entries/{id}", "/v1/entries/{id}/statement", "/v1/entries/{id}/receipt",
		"/v1/entries/{id}/transparent", "/v1/entries/{id}/collateral", "/v1/entries/{id}/deliveries",
		"/log/inclusion/{id}",
	} {
		for _, method := range []string{"GET", "HEAD"} {
			tested[method+" "+pattern] = true
			for _, c := range callers {
				ask := func(s *statement.Statement) answer {
					return w.send(request{method: method, path: strings.Replace(pattern, "{id}", s.ID().String(), 1), header: c.header})
				}
				missing := ask(unknown)
				if missing.status != 404 {
					t.Errorf("%s %s as %s, unknown: %d", method, pattern, c.name, missing.status)
				}
				if a := ask(public); a.status != 200 {
					t.Errorf("%s %s as %s, public: %d", method, pattern, c.name, a.status)
				}
				a := ask(private)
				if c.reads {
					if a.status != 200 || !strings.HasPrefix(a.header.Get("Cache-Control"), "private") {
						t.Errorf("%s %s as %s, private: %d, Cache-Control %q", method, pattern, c.name, a.status, a.header.Get("Cache-Control"))
					}
				} else {
					sameAnswer(t, method+" "+pattern+" as "+c.name, a, missing)
				}
			}
		}
	}

	// The whole log: every leaf to everybody, its bytes to whoever may see them.
	tested["GET /v1/statements"], tested["HEAD /v1/statements"] = true, true
	for _, c := range callers {
		a := w.get("/v1/statements", c.header...)
		if !bytes.Contains(a.body, public.Canonical()) || bytes.Contains(a.body, private.Canonical()) != c.reads {
			t.Errorf("statements as %s show what they must not, or lack what they must", c.name)
		}
		if !strings.HasPrefix(a.header.Get("Cache-Control"), "private") == c.reads {
			t.Errorf("statements as %s: Cache-Control %q", c.name, a.header.Get("Cache-Control"))
		}
	}

	// What was decided: of what is hidden, not even the rule.
	tested["GET /v1/decisions"], tested["HEAD /v1/decisions"] = true, true
	for _, c := range callers {
		a := w.get("/v1/decisions", c.header...)
		id, hidden := public.ID(), private.ID()
		if !bytes.Contains(a.body, id[:]) || !bytes.Contains(a.body, hidden[:]) || bytes.Contains(a.body, []byte(w.ruleOf(private))) != c.reads {
			t.Errorf("decisions as %s show what they must not, or lack what they must", c.name)
		}
		if !strings.HasPrefix(a.header.Get("Cache-Control"), "private") == c.reads {
			t.Errorf("decisions as %s: Cache-Control %q", c.name, a.header.Get("Cache-Control"))
		}
	}

	// Lists: the same, for every way to ask for an entry.
	tested["GET /v1/entries"], tested["HEAD /v1/entries"] = true, true
	for _, c := range callers {
		for _, query := range []func(*statement.Statement, int) string{
			func(s *statement.Statement, n int) string { return "subject=" + string(ledgertest.Image(n)) },
			func(s *statement.Statement, n int) string {
				return "issuer=https://nobody.example&subject=" + string(ledgertest.Image(n))
			},
			func(s *statement.Statement, n int) string { return "evidence=" + string(s.Evidence()) },
		} {
			list := func(s *statement.Statement, n int) answer {
				return w.get("/v1/entries?"+query(s, n), c.header...)
			}
			missing := list(unknown, 3)
			a := list(private, 2)
			if !c.reads {
				sameAnswer(t, "list as "+c.name, a, missing)
			} else if bytes.Equal(a.body, missing.body) {
				t.Errorf("list as %s finds nothing: %s", c.name, a.body)
			}
			if a := list(public, 1); bytes.Equal(a.body, missing.body) {
				t.Errorf("list as %s does not find what is public: %s", c.name, a.body)
			}
		}
		for _, e := range read[listing](w, "/v1/entries?limit=500", c.header...).Items {
			if e.ID == private.ID().String() && !c.reads {
				t.Errorf("the list of all shows a private entry to %s", c.name)
			}
		}
	}

	// Evidence: for whoever sees its claim and, before the registry has it, is known
	// here. Purging is a right of its own.
	tested["GET /v1/entries/{id}/evidence"], tested["HEAD /v1/entries/{id}/evidence"] = true, true
	tested["POST /v1/entries/{id}/evidence:purge"], tested["PUT /v1/indexes/{digest}"] = true, true
	w.stage("sbom 1 of " + w.wabbit.Name)
	w.stage("sbom 2 of " + w.vault.Name)
	for _, c := range callers {
		evidence := func(s *statement.Statement) answer {
			return w.get("/v1/entries/"+s.ID().String()+"/evidence", c.header...)
		}
		missing := evidence(unknown)
		if a := evidence(public); (a.status == 200) != (c.header != nil) {
			t.Errorf("evidence as %s: %d", c.name, a.status)
		}
		if a := evidence(private); c.reads && (a.status != 200 || !strings.HasPrefix(a.header.Get("Cache-Control"), "private")) {
			t.Errorf("private evidence as %s: %d, Cache-Control %q", c.name, a.status, a.header.Get("Cache-Control"))
		} else if !c.reads {
			sameAnswer(t, "evidence as "+c.name, a, missing)
		}
		refused := http.StatusForbidden
		if c.header == nil {
			refused = http.StatusUnauthorized
		}
		for _, s := range []*statement.Statement{public, private, unknown} {
			if a := w.send(request{method: "POST", path: "/v1/entries/" + s.ID().String() + "/evidence:purge", header: c.header}); a.status != refused {
				t.Errorf("purge as %s: %d, want %d", c.name, a.status, refused)
			}
		}
		if a := w.send(request{method: "PUT", path: "/v1/indexes/" + string(ledgertest.Image(1)), header: c.header}); !c.publish && a.status != refused {
			t.Errorf("PUT index as %s: %d, want %d", c.name, a.status, refused)
		}
	}

	// Writes: judged by the caller first, and the answer to whoever may publish
	// is the original receipt, whether or not the entry may be read.
	tested["POST /entries"], tested["POST /v1/entries:batch"], tested["PUT /v1/evidence/{digest}"] = true, true, true
	extension := serveExtension(t, w.api)
	content := []byte("evidence")
	for _, c := range callers {
		want := http.StatusUnauthorized
		switch {
		case c.publish:
			want = http.StatusCreated
		case c.header != nil:
			want = http.StatusForbidden
		}
		post := append([]string{"Content-Type: application/cose"}, c.header...)
		for _, s := range []*statement.Statement{public, private} {
			before := w.size()
			for name, a := range map[string]answer{
				"POST /entries": w.send(request{"POST", "/entries", post, bytes.NewReader(s.Canonical())}),
				"extension":     extension.send(request{"POST", "/v2/net-monitor/_scitt/entries/register", post, bytes.NewReader(s.Canonical())}),
			} {
				if a.status != want {
					t.Errorf("%s as %s: %d, want %d", name, c.name, a.status, want)
				}
				if want == http.StatusCreated {
					w.admitted(a, s)
				}
			}
			if w.size() != before {
				t.Errorf("resubmission as %s made an entry", c.name)
			}
		}
		if a := w.batch([][]byte{public.Canonical(), private.Canonical()}, c.header...); c.publish {
			for i, item := range w.items(a) {
				w.registered(item, []*statement.Statement{public, private}[i])
			}
		} else if a.status != want {
			t.Errorf("batch as %s: %d, want %d", c.name, a.status, want)
		}
		a := w.send(request{"PUT", "/v1/evidence/" + string(statement.SHA256(content)), c.header, bytes.NewReader(content)})
		if a.status != want && !(want == http.StatusCreated && a.status == http.StatusOK) {
			t.Errorf("PUT evidence as %s: %d, want %d", c.name, a.status, want)
		}
	}

	// Dry runs and checks: for everybody, within what each may see.
	for _, c := range callers {
		post := append([]string{"Content-Type: application/cose"}, c.header...)
		tested["POST /v1/entries:validate"] = true
		if a := w.send(request{"POST", "/v1/entries:validate", post, bytes.NewReader(private.Canonical())}); a.status != 200 {
			t.Errorf("validate as %s: %d", c.name, a.status)
		}
		for _, method := range []string{"GET", "HEAD"} {
			tested[method+" /v1/check"], tested[method+" /v1/refusals"] = true, true
			if a := w.send(request{method: method, path: "/v1/refusals", header: c.header}); (a.status == 200) != c.reads {
				t.Errorf("%s refusals as %s: %d", method, c.name, a.status)
			}
			tested[method+" /v1/policy/refusals"] = true
			if a := w.send(request{method: method, path: "/v1/policy/refusals", header: c.header}); (a.status == 200) != c.reads {
				t.Errorf("%s counts of refusals as %s: %d", method, c.name, a.status)
			}
		}
		tested["POST /v1/check"] = true
		for n, want := range map[int]bool{1: true, 2: c.reads, 3: false} {
			asked := `{"subject":"` + string(ledgertest.Image(n)) + `","require":[{}]}`
			a := w.send(request{"POST", "/v1/check", c.header, strings.NewReader(asked)})
			b := w.get("/v1/check?subject="+string(ledgertest.Image(n)), c.header...)
			if got := bytes.Contains(a.body, []byte(`"satisfied":true`)); a.status != 200 || got != want || b.status != 200 || !bytes.Equal(a.body, b.body) {
				t.Errorf("check of image %d as %s: %d %s, %d %s", n, c.name, a.status, a.body, b.status, b.body)
			}
		}
	}

	// What is the same for everybody.
	for _, path := range []string{
		"/.well-known/scitt-keys", "/v1/service", "/v1/policy", "/healthz", "/readyz", "/readyz/write",
		"/problems/{code}", "/.well-known/scitt-keys/{kid}",
		"/log/checkpoint", "/log/tile/*", "/log/heads", "/log/consistency",
	} {
		for _, method := range []string{"GET", "HEAD"} {
			tested[method+" "+path] = true
			for _, c := range callers {
				kid := w.ledger.Keys()[0].ID
				path := strings.NewReplacer("{code}", "rejected", "{kid}", base64url(kid), "*", "entries/000.p/2", "consistency", "consistency?from=2&to=3").Replace(path)
				if a := w.send(request{method: method, path: path, header: c.header}); a.status != 200 {
					t.Errorf("%s %s as %s: %d", method, path, c.name, a.status)
				}
			}
		}
	}
	if got, want := slices.Sorted(maps.Keys(tested)), slices.Sorted(slices.Values(api.Routes(w.api))); !slices.Equal(got, want) {
		t.Errorf("routes tested:\n%s\nroutes that exist:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

type listing struct {
	Items []struct {
		ID string `json:"id"`
	} `json:"items"`
}

// sameAnswer: nothing but the time tells a from b.
func sameAnswer(t *testing.T, what string, a, b answer) {
	t.Helper()
	for _, h := range []http.Header{a.header, b.header} {
		h.Del("Date")
	}
	if a.status != b.status || !bytes.Equal(a.body, b.body) || !maps.EqualFunc(a.header, b.header, slices.Equal) {
		t.Errorf("%s: a private entry answers\n%d %v %q\nan unknown one\n%d %v %q", what, a.status, a.header, a.body, b.status, b.header, b.body)
	}
}

func TestTokensWorkAsBasicAuthPasswordToo(t *testing.T) {
	w := newWorld(t)
	s := w.wabbit.Claim(t, ledgertest.Image(1), ledgertest.SBOM, []byte("sbom"))
	w.register(s.Canonical(), basic("token of reader")).refused(t, 403, "forbidden")
	w.admitted(w.register(s.Canonical(), basic("token of publisher")), s)
}

// ruleOf is what admitted s, as it is recorded.
func (w *world) ruleOf(s *statement.Statement) string {
	w.t.Helper()
	e, err := w.ledger.Entry(w.t.Context(), s.ID(), ledger.All)
	if err != nil {
		w.t.Fatal(err)
	}
	return e.Rule
}
