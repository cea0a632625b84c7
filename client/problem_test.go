package client_test

import (
	"errors"
	"testing"

	"github.com/fxamacker/cbor/v2"

	"github.com/scittd/scittd/api/apitype"
	"github.com/scittd/scittd/client"
)

func TestProblemsAreReadWhateverTheirForm(t *testing.T) {
	concise := func(m map[any]any) string {
		b, err := cbor.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	const cborType = "application/concise-problem-details+cbor"
	for _, c := range []struct {
		name, contentType, content string
		want                       apitype.Problem
		text                       string
	}{
		{"concise, with all of ours", cborType, concise(map[any]any{-1: "Rejected", -2: "not you",
			"https://github.com/scittd/scittd": map[string]any{"code": "rejected", "hint": "ask", "rule": "issuers[0]",
				"policyEntry": "ab", "entryId": "cd", "traceId": "ef", "future": 7}}),
			apitype.Problem{Title: "Rejected", Detail: "not you", Code: "rejected", Hint: "ask", Rule: "issuers[0]", PolicyEntry: "ab", EntryID: "cd", TraceID: "ef"},
			"Rejected: not you"},
		{"concise, tagged with a language", cborType + "; charset=utf-8", concise(map[any]any{
			-1: cbor.Tag{Number: 38, Content: []any{"en", "Rejected"}}, -2: cbor.Tag{Number: 38, Content: []any{"ar", "no", true}}}),
			apitype.Problem{Title: "Rejected", Detail: "no"}, "Rejected: no"},
		{"concise, with titles of wrong kinds", cborType, concise(map[any]any{-1: 7, -2: cbor.Tag{Number: 38, Content: "en"}}),
			apitype.Problem{Title: "status 400 Bad Request"}, "status 400 Bad Request"},
		{"concise, of another vendor", cborType, concise(map[any]any{-1: "No", 99: []int{1}, "https://other.example": "x"}),
			apitype.Problem{Title: "No"}, "No"},
		{"concise, broken", cborType, "\xa1\x20", apitype.Problem{Title: "status 400 Bad Request"}, "status 400 Bad Request"},
		{"JSON", "application/problem+json; charset=utf-8", `{"title":"Bad Filter","detail":"what","status":200,"code":"bad-filter","errors":[{"code":"X"}]}`,
			apitype.Problem{Title: "Bad Filter", Detail: "what", Code: "bad-filter", Errors: []apitype.RegistryError{{Code: "X"}}}, "Bad Filter: what"},
		{"JSON, broken", "application/problem+json", `{"title":"Half`, apitype.Problem{Title: "status 400 Bad Request"}, "status 400 Bad Request"},
		{"a proxy's page", "text/html", "<html><h1>Bad Request</h1>", apitype.Problem{Title: "status 400 Bad Request"}, "status 400 Bad Request"},
		{"nothing", "", "", apitype.Problem{Title: "status 400 Bad Request"}, "status 400 Bad Request"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDouble(t, getService(body(400, c.contentType, c.content)))
			_, err := d.Service(t.Context())
			p := (*client.Problem)(nil)
			if !errors.As(err, &p) {
				t.Fatalf("err %v", err)
			}
			c.want.Status = 400
			if got := p.Problem; got.Title != c.want.Title || got.Detail != c.want.Detail || got.Code != c.want.Code || got.Hint != c.want.Hint ||
				got.Rule != c.want.Rule || got.PolicyEntry != c.want.PolicyEntry || got.EntryID != c.want.EntryID || got.TraceID != c.want.TraceID ||
				got.Status != 400 || len(got.Errors) != len(c.want.Errors) {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
			if p.Error() != c.text || p.Host != d.url {
				t.Errorf("text %q of %s, want %q of %s", p, p.Host, c.text, d.url)
			}
		})
	}
}

func TestAGatewaysHTMLPageIsAStatusAndAHost(t *testing.T) {
	page := getService(body(502, "text/html", "<html>\x1b[31m502</html>"))
	d := newDouble(t, page, page, page, page, page, page)
	_, err := d.Service(t.Context())
	p := (*client.Problem)(nil)
	if !errors.As(err, &p) || p.Error() != "status 502 Bad Gateway" || p.Host != d.url {
		t.Errorf("err %v", err)
	}
}

func TestOnlyA404IsNotFound(t *testing.T) {
	for code, want := range map[int]bool{404: true, 410: false, 400: false} {
		d := newDouble(t, getService(status(code)))
		if _, err := d.Service(t.Context()); client.IsNotFound(err) != want {
			t.Errorf("status %d: IsNotFound %t", code, !want)
		}
	}
	if client.IsNotFound(errors.New("no")) || client.IsNotFound(nil) {
		t.Error("another error is not found")
	}
}
