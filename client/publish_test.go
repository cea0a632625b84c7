package client_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/scittd/scittd/client"
)

func TestRegister(t *testing.T) {
	signed, id := claim(t, newKey(t), "https://wabbit.example", []byte(`{}`))
	post := func(answer func(http.ResponseWriter)) exchange {
		return exchange{method: "POST", path: "/entries", answer: answer, check: func(t *testing.T, r *http.Request, got []byte) {
			if !bytes.Equal(got, signed) || r.Header.Get("Content-Type") != "application/cose" {
				t.Errorf("posted %d bytes of %s, want the statement as application/cose", len(got), r.Header.Get("Content-Type"))
			}
		}}
	}
	get := func(answer func(http.ResponseWriter)) exchange {
		return exchange{method: "GET", path: "/entries/" + id.String(), answer: answer}
	}
	created := body(201, "application/cose", "the receipt")
	found := body(200, "application/cose", "the receipt")
	lost := body(404, "application/problem+json", `{"title":"Not Found"}`)
	second := 1 * time.Second
	for _, c := range []struct {
		name    string
		script  []exchange
		waits   []time.Duration
		problem string // "": it succeeds
	}{
		{"201 at once", []exchange{post(created)}, nil, ""},
		{"202, pending, there", []exchange{post(status(202, "Retry-After", "1")), get(status(204, "Retry-After", "2")), get(found)},
			[]time.Duration{second, 2 * second}, ""},
		{"202 without Retry-After is not hammered", []exchange{post(status(202)), get(found)}, []time.Duration{100 * time.Millisecond}, ""},
		{"forgotten after a 202 is submitted again", []exchange{post(status(202, "Retry-After", "1")), get(lost), post(created)}, []time.Duration{second}, ""},
		{"forgotten twice", []exchange{post(status(202, "Retry-After", "1")), get(status(204, "Retry-After", "1")), get(lost),
			post(status(202, "Retry-After", "1")), get(lost), post(created)}, []time.Duration{second, second, second}, ""},
		{"failed after a 202 is final", []exchange{post(status(202, "Retry-After", "1")), get(body(404, "application/problem+json", `{"title":"Registration Failed","detail":"why"}`))},
			[]time.Duration{second}, "Registration Failed: why"},
		{"refused", []exchange{post(body(400, "application/problem+json", `{"title":"Rejected"}`))}, nil, "Rejected"},
		{"a success that is none of the standard's", []exchange{post(body(200, "text/html", "<p>ok"))}, nil, "status 200 OK"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDouble(t, c.script...)
			reg, err := d.Register(t.Context(), signed, "")
			if c.problem != "" {
				p := (*client.Problem)(nil)
				if !errors.As(err, &p) || p.Error() != c.problem || reg.Receipt != nil {
					t.Errorf("err %v, receipt %q, want %s", err, reg.Receipt, c.problem)
				}
			} else if err != nil || string(reg.Receipt) != "the receipt" || reg.Pending {
				t.Errorf("receipt %q, pending %t, err %v", reg.Receipt, reg.Pending, err)
			}
			if reg.EntryID != id || reg.URL != d.url+"/entries/"+id.String() {
				t.Errorf("entry %s at %s", reg.EntryID, reg.URL)
			}
			if len(d.waits) != len(c.waits) {
				t.Fatalf("waits %v, want %v", d.waits, c.waits)
			}
			for i := range c.waits {
				if d.waits[i] != c.waits[i] {
					t.Errorf("waits %v, want %v", d.waits, c.waits)
				}
			}
		})
	}
}

func TestSubmitDoesNotWait(t *testing.T) {
	signed, id := claim(t, newKey(t), "https://wabbit.example", []byte(`{}`))
	d := newDouble(t, exchange{method: "POST", path: "/v2/wabbit/app/_scitt/entries/register", answer: status(202, "Retry-After", "1")})
	reg, err := d.Submit(t.Context(), signed, "wabbit/app")
	if err != nil || !reg.Pending || reg.Receipt != nil || reg.EntryID != id || len(d.waits) != 0 {
		t.Errorf("%+v, %v, waits %v", reg, err, d.waits)
	}
}

func TestWaitingForAReceiptEndsWithTheContext(t *testing.T) {
	signed, id := claim(t, newKey(t), "https://wabbit.example", []byte(`{}`))
	d := newDouble(t, exchange{method: "POST", path: "/entries", answer: status(202)})
	d.Sleeping(func(context.Context, time.Duration) error { return context.DeadlineExceeded })
	reg, err := d.Register(t.Context(), signed, "")
	if !errors.Is(err, context.DeadlineExceeded) || !reg.Pending || reg.EntryID != id {
		t.Errorf("%+v, %v; want it pending", reg, err)
	}
}

func TestWhatIsNoSignedStatementIsNotSent(t *testing.T) {
	d := newDouble(t)
	if _, err := d.Register(t.Context(), []byte("junk"), ""); err == nil {
		t.Error("junk was registered")
	}
}
