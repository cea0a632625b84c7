package client_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/scittd/scittd/api/apitype"
	"github.com/scittd/scittd/client"
	"github.com/scittd/scittd/statement"
)

// The payload of a detached statement is at hand or it is not, and is its own or
// another's; and so may be the issuer's key. Nothing is called damaged, or
// verified, that is only missing.
func TestVerifyADetachedStatement(t *testing.T) {
	key, ours := newKey(t), newService(t, scitt)
	payload, other := []byte("an SBOM"), []byte("another")
	b, id := claim(t, key, wabbit, payload, func(s *statement.Template) { s.Detached = true })
	input := transparent(t, b, ours.receipt(t, id, now.Add(-time.Hour)))
	for _, c := range []struct {
		name      string
		evidence  []byte
		pinned    bool
		failure   string
		signature string // status
		checked   string // status of evidence; "": not made
		open      string
	}{
		{"neither", nil, false, "", "SKIP", "", "detached payload (--evidence FILE)"},
		{"the key alone", nil, true, "", "SKIP", "", "detached payload (--evidence FILE)"},
		{"both", payload, true, "", "OK", "OK", ""},
		{"another payload", other, true, client.FailInvalid, "FAIL", "FAIL", ""},
		{"the payload alone", payload, false, client.FailUntrusted, "SKIP", "FAIL", "the issuer's signature"},
	} {
		var trust client.Trust
		must(t, trust.Pin(scitt, ours.keySet(), now))
		if c.pinned {
			must(t, trust.TrustIssuer(client.TrustedIssuer{Issuer: wabbit, Key: publicPEM(t, key)}))
		}
		v := client.Verifier{Trust: trust, Issuers: []client.IssuerRule{{Issuer: wabbit}}, Now: now, Payload: c.evidence}
		if c.evidence != nil {
			v.Evidence = statement.SHA256(c.evidence)
		}
		got := v.Verify(input)
		status := map[string]string{}
		for _, check := range got.Checks {
			status[check.Name] = check.Status
		}
		if got.Failure() != c.failure || got.Verified != (c.failure == "") || status["signature"] != c.signature || status["evidence"] != c.checked {
			t.Errorf("%s: %+v", c.name, got)
		}
		open := func(part string) bool {
			return slices.ContainsFunc(got.NotChecked, func(s string) bool { return strings.Contains(s, part) })
		}
		if c.open != "" && !open(c.open) || c.open == "" && open("signature") {
			t.Errorf("%s leaves open %q", c.name, got.NotChecked)
		}
		if got.Signed.Evidence != "" {
			t.Errorf("%s: the statement is said to sign evidence %s", c.name, got.Signed.Evidence)
		}
	}
}

func TestWhatGoesBesideAStatementIsInThePath(t *testing.T) {
	key := newKey(t)
	signed, id := claim(t, key, wabbit, []byte("an SBOM"))
	var asked []string
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Method+" "+r.URL.String())
		switch {
		case strings.HasSuffix(r.URL.Path, "validate"):
			io.WriteString(w, `{"decision":"deny","rule":"issuers","entryId":"`+id.String()+`"}`)
		case strings.HasSuffix(r.URL.Path, "check"):
			io.WriteString(w, `{"satisfied":true,"results":[{"satisfied":true}]}`)
		default:
			w.WriteHeader(http.StatusCreated)
			io.WriteString(w, "receipt")
		}
	}))
	defer h.Close()
	c, err := client.New(h.URL, client.Options{})
	must(t, err)
	digest := statement.SHA256([]byte("an SBOM"))
	for _, with := range []client.Beside{{}, {Evidence: digest}, {Image: image}, {Repository: "a/b", Image: image, Evidence: digest}} {
		_, err := c.RegisterBeside(t.Context(), signed, with)
		must(t, err)
	}
	judged, err := c.Validate(t.Context(), signed, client.Beside{Repository: "a/b", Evidence: digest})
	if err != nil || judged.Decision != "deny" || judged.EntryID != id.String() {
		t.Errorf("validate: %+v, %v", judged, err)
	}
	checked, err := c.Check(t.Context(), apitype.Check{Subject: string(image), Require: []apitype.Requirement{{}}})
	if err != nil || !checked.Satisfied || len(checked.Results) != 1 {
		t.Errorf("check: %+v, %v", checked, err)
	}
	evidence, subject := "evidence=sha256%3A"+string(digest)[7:], "subject=sha256%3A"+string(image)[7:]
	want := []string{
		"POST /entries", "POST /entries?" + evidence, "POST /entries", "POST /v2/a/b/_scitt/entries/register?" + evidence + "&" + subject,
		"POST /v2/a/b/_scitt/entries/validate?" + evidence, "POST /v1/check",
	}
	if !slices.Equal(asked, want) {
		t.Errorf("asked\n%s\nwant\n%s", strings.Join(asked, "\n"), strings.Join(want, "\n"))
	}
}
