package client_test

import (
	"bytes"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/scittd/scittd/client"
	"github.com/scittd/scittd/statement"
)

func TestBytesThatAreNotTheEntryAskedForAreRefused(t *testing.T) {
	key := newKey(t)
	right, id := claim(t, key, "https://wabbit.example", []byte(`{"a":1}`))
	wrong, other := claim(t, key, "https://wabbit.example", []byte(`{"a":2}`))
	for _, c := range []struct{ name, content, want string }{
		{"the right bytes", string(right), ""},
		{"another statement", string(wrong), other.String() + " instead of " + id.String()},
		{"a tampered signature", string(tampered(right)), "instead of " + id.String()},
		{"no statement", "<html>", "something else than a statement"},
		{"nothing", "", "something else than a statement"},
	} {
		t.Run(c.name, func(t *testing.T) {
			at := func(part string) exchange {
				return exchange{method: "GET", path: "/v1/entries/" + id.String() + "/" + part, answer: body(200, "application/cose", c.content)}
			}
			d := newDouble(t, at("statement"), at("transparent"))
			first, err1 := d.Statement(t.Context(), id)
			second, err2 := d.Transparent(t.Context(), id)
			for i, err := range []error{err1, err2} {
				if c.want == "" && (err != nil || !bytes.Equal([][]byte{first, second}[i], right)) {
					t.Errorf("err %v", err)
				}
				if c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
					t.Errorf("err %v, want %q", err, c.want)
				}
			}
		})
	}
}

func TestAnEntryOfAnotherIDIsRefused(t *testing.T) {
	_, id := claim(t, newKey(t), "https://wabbit.example", []byte(`{}`))
	path := "/v1/entries/" + id.String()
	d := newDouble(t,
		exchange{method: "GET", path: path, answer: body(200, "application/json", `{"id":"`+id.String()+`","leafIndex":7}`)},
		exchange{method: "GET", path: path, answer: body(200, "application/json", `{"id":"`+strings.Repeat("0", 64)+`"}`)},
		exchange{method: "GET", path: path, answer: body(200, "application/json", `[]`)},
	)
	if e, err := d.Entry(t.Context(), id); err != nil || e.Index != 7 {
		t.Errorf("%+v, %v", e, err)
	}
	for range 2 {
		if e, err := d.Entry(t.Context(), id); err == nil {
			t.Errorf("accepted %+v", e)
		}
	}
}

func TestAListWithIDsThatAreNoneIsRefused(t *testing.T) {
	d := newDouble(t, exchange{method: "GET", path: "/v1/entries?", answer: body(200, "application/json", `{"items":[{"id":"../../etc/passwd"}]}`)})
	if _, err := d.Find(t.Context(), client.Query{}); err == nil {
		t.Error("a path was accepted as an entry id")
	}
}

func TestAQueryBecomesTheParametersOfTheService(t *testing.T) {
	a, b := statement.SHA256([]byte("a")), statement.SHA256([]byte("b"))
	want := url.Values{
		"subject": {string(a), string(b)}, "evidence": {string(a)}, "issuer": {"https://a.example", "b&c=d"},
		"issuerPrefix": {"https://a.example/", "did:web:b:"},
		"mediaType":    {"application/spdx+json"}, "predicateType": {"https://slsa.dev/provenance/v1"},
		"since": {"2026-11-01T00:00:00Z"}, "until": {"2026-11-02T10:00:00Z"}, "limit": {"7"}, "cursor": {"next"},
	}
	d := newDouble(t, exchange{method: "GET", path: "/v1/entries?" + want.Encode(), answer: body(200, "application/json", `{"items":[],"next":"more","found":{"issuers":["x"],"mediaTypes":[]}}`)})
	east := time.FixedZone("east", 2*3600)
	page, err := d.Find(t.Context(), client.Query{
		Artifacts: []statement.Digest{a, b}, Evidence: []statement.Digest{a}, Issuers: []string{"https://a.example", "b&c=d"},
		IssuerPrefixes: []statement.IssuerPrefix{"https://a.example/", "did:web:b:"},
		MediaTypes:     []string{"application/spdx+json"}, PredicateTypes: []string{"https://slsa.dev/provenance/v1"},
		Since: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC), Until: time.Date(2026, 11, 2, 12, 0, 0, 0, east), Limit: 7, Cursor: "next",
	})
	if err != nil || page.Next != "more" || page.Found == nil || page.Found.Issuers[0] != "x" {
		t.Errorf("%+v, %v", page, err)
	}
}

func TestAnExtensionIsThereOnlyIfTheRegistryListsIt(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer func(http.ResponseWriter)
		want   bool
	}{
		{"listed", body(200, "application/json", `{"extensions":[{"name":"_oci"},{"name":"_scitt","url":"x"}]}`), true},
		{"not listed", body(200, "application/json", `{"extensions":[{"name":"_oci"}]}`), false},
		{"a page", body(200, "text/html", "<html>"), false},
		{"not found", status(404), false},
		{"behind a login", status(401), false},
	} {
		d := newDouble(t, exchange{method: "GET", path: "/v2/_oci/ext/discover", answer: c.answer})
		if got, err := d.HasExtension(t.Context(), "_scitt"); err != nil || got != c.want {
			t.Errorf("%s: %t, %v; want %t", c.name, got, err, c.want)
		}
	}
}

func TestKeysThatAreNoneAreRefused(t *testing.T) {
	d := newDouble(t, exchange{method: "GET", path: "/.well-known/scitt-keys", answer: body(200, "application/cbor", "\x80")})
	if _, err := d.Keys(t.Context()); err == nil || !strings.Contains(err.Error(), d.url) {
		t.Errorf("err %v, want one that names the service", err)
	}
}
