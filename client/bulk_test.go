package client_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/scittd/scittd/client"
	"github.com/scittd/scittd/internal/detcbor"
	"github.com/scittd/scittd/statement"
)

// part is an item of a batch's answer.
type part struct {
	status  int
	content string // a receipt, or the title of a problem
}

const bulkPath = "/v1/entries:batch"

// sequence answers with parts, as the service does.
func sequence(parts []part, headers ...string) func(http.ResponseWriter) {
	var b []byte
	for n, p := range parts {
		content := []byte(p.content)
		if p.status >= 400 {
			var err error
			if content, err = detcbor.Marshal(map[int]string{-1: p.content, -2: "because"}); err != nil {
				panic(err)
			}
		}
		b = detcbor.AppendHead(b, detcbor.KindArray, 3)
		b = detcbor.AppendHead(b, detcbor.KindUint, uint64(n))
		b = detcbor.AppendHead(b, detcbor.KindUint, uint64(p.status))
		b = detcbor.AppendBytes(b, content)
	}
	return body(200, "application/cbor-seq", string(b), headers...)
}

// claims signs n statements.
func claims(t *testing.T, key *ecdsa.PrivateKey, n int) [][]byte {
	t.Helper()
	var all [][]byte
	for i := range n {
		signed, _ := claim(t, key, "https://wabbit.example", fmt.Appendf(nil, `{"n":%d}`, i))
		all = append(all, signed)
	}
	return all
}

// outcome is what was told of a statement: "receipt of ...", "pending" or an error.
func outcome(r client.Registration, err error) string {
	switch {
	case err != nil:
		return err.Error()
	case r.Pending:
		return "pending"
	}
	return string(r.Receipt)
}

// collect calls register and returns the outcomes, which must come in order.
func collect(t *testing.T, signed [][]byte, register func(func(int, client.Registration, error))) []string {
	t.Helper()
	var all []string
	register(func(n int, r client.Registration, err error) {
		if n != len(all) {
			t.Errorf("outcome %d came as number %d", n, len(all))
		}
		all = append(all, outcome(r, err))
	})
	if len(all) != len(signed) {
		t.Errorf("%d outcomes for %d statements", len(all), len(signed))
	}
	return all
}

func TestManyStatementsTravelTogether(t *testing.T) {
	signed := claims(t, newKey(t), 4)
	post := func(answer func(http.ResponseWriter), numbers ...int) exchange {
		return exchange{method: "POST", path: bulkPath, answer: answer, check: func(t *testing.T, r *http.Request, got []byte) {
			var want []byte
			for _, n := range numbers {
				want = append(want, signed[n]...)
			}
			if !bytes.Equal(got, want) || r.Header.Get("Content-Type") != "application/cbor-seq" || r.Header.Get("Accept") != "application/cbor-seq" {
				t.Errorf("posted %d bytes of %s, want statements %v as application/cbor-seq", len(got), r.Header.Get("Content-Type"), numbers)
			}
		}}
	}
	alone := func(n int) exchange {
		return exchange{method: "POST", path: "/entries", answer: body(201, "application/cose", fmt.Sprint("r", n)),
			check: func(t *testing.T, _ *http.Request, got []byte) {
				if !bytes.Equal(got, signed[n]) {
					t.Errorf("another statement than %d was sent alone", n)
				}
			}}
	}
	problem := func(status int) func(http.ResponseWriter) {
		return body(status, "application/problem+json", `{"title":"No","detail":"because"}`)
	}
	all := []string{"r0", "r1", "r2", "r3"}
	good := func(numbers ...int) (parts []part) {
		for _, n := range numbers {
			parts = append(parts, part{201, fmt.Sprint("r", n)})
		}
		return parts
	}
	second := time.Second
	for _, c := range []struct {
		name   string
		script []exchange
		waits  []time.Duration
		want   []string
	}{
		{"all at once", []exchange{post(sequence(good(0, 1, 2, 3)), 0, 1, 2, 3)}, nil, all},
		{"one is refused", []exchange{post(sequence([]part{{201, "r0"}, {400, "Rejected"}, {201, "r2"}, {201, "r3"}}), 0, 1, 2, 3)},
			nil, []string{"r0", "Rejected: because", "r2", "r3"}},
		{"what it was too busy for is sent again", []exchange{
			post(sequence([]part{{201, "r0"}, {503, "Overloaded"}, {201, "r2"}, {429, "Too Many"}}, "Retry-After", "1"), 0, 1, 2, 3),
			post(sequence([]part{{503, "Overloaded"}, {201, "r3"}}, "Retry-After", "2"), 1, 3),
			post(sequence(good(1)), 1),
		}, []time.Duration{second, 2 * second}, all},
		{"too busy for ever", []exchange{
			post(sequence([]part{{503, "Overloaded"}, {201, "r1"}, {201, "r2"}, {201, "r3"}}, "Retry-After", "1"), 0, 1, 2, 3),
			post(sequence([]part{{503, "Overloaded"}}, "Retry-After", "1"), 0), post(sequence([]part{{503, "Overloaded"}}, "Retry-After", "1"), 0),
			post(sequence([]part{{503, "Overloaded"}}, "Retry-After", "1"), 0), post(sequence([]part{{503, "Overloaded"}}, "Retry-After", "1"), 0),
			post(sequence([]part{{503, "Overloaded"}}, "Retry-After", "1"), 0),
		}, []time.Duration{second, second, second, second, second}, []string{"Overloaded: because", "r1", "r2", "r3"}},
		{"an answer that ends early is no verdict on the rest", []exchange{
			post(sequence([]part{{201, "r0"}, {413, "Too Large"}}), 0, 1, 2, 3), post(sequence(good(1, 2, 3)), 1, 2, 3),
		}, nil, all},
		{"an answer that ends early for want of room", []exchange{
			post(sequence([]part{{201, "r0"}, {503, "Overloaded"}}, "Retry-After", "1"), 0, 1, 2, 3), post(sequence(good(1, 2, 3)), 1, 2, 3),
		}, []time.Duration{second}, all},
		{"an answer that ends with the first is about the first", []exchange{
			post(sequence([]part{{413, "Too Large"}}), 0, 1, 2, 3), post(sequence(good(1, 2, 3)), 1, 2, 3),
		}, nil, []string{"Too Large: because", "r1", "r2", "r3"}},
		{"a proxy that takes less", []exchange{
			post(problem(413), 0, 1, 2, 3), post(problem(413), 0, 1), post(problem(413), 0),
			post(sequence(good(1)), 1), post(sequence(good(2)), 2), post(sequence(good(3)), 3),
		}, nil, []string{"No: because", "r1", "r2", "r3"}},
		{"a proxy that takes half", []exchange{
			post(problem(413), 0, 1, 2, 3), post(sequence(good(0, 1)), 0, 1), post(sequence(good(2, 3)), 2, 3),
		}, nil, all},
		{"a service without bulk registration", []exchange{post(problem(404), 0, 1, 2, 3), alone(0), alone(1), alone(2), alone(3)}, nil, all},
		{"a refusal of the whole", []exchange{post(problem(403), 0, 1, 2, 3)}, nil,
			[]string{"No: because", "No: because", "No: because", "No: because"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDouble(t, c.script...)
			got := collect(t, signed, func(done func(int, client.Registration, error)) {
				d.RegisterAll(t.Context(), slices.Values(signed), done)
			})
			if !slices.Equal(got, c.want) {
				t.Errorf("outcomes %q, want %q", got, c.want)
			}
			if !slices.Equal(d.waits, c.waits) {
				t.Errorf("waits %v, want %v", d.waits, c.waits)
			}
		})
	}
}

func TestPendingOnesOfManyAreWaitedForUnlessNot(t *testing.T) {
	signed := claims(t, newKey(t), 3)
	answer := exchange{method: "POST", path: bulkPath, answer: sequence([]part{{202, ""}, {201, "r1"}, {202, ""}}, "Retry-After", "1")}
	d := newDouble(t, answer)
	got := collect(t, signed, func(done func(int, client.Registration, error)) {
		d.SubmitAll(t.Context(), slices.Values(signed), done)
	})
	if !slices.Equal(got, []string{"pending", "r1", "pending"}) || len(d.waits) > 0 {
		t.Errorf("%q, waits %v", got, d.waits)
	}

	get := func(n int, answer func(http.ResponseWriter)) exchange {
		s, err := statement.Parse(signed[n])
		if err != nil {
			t.Fatal(err)
		}
		return exchange{method: "GET", path: "/entries/" + s.ID().String(), answer: answer}
	}
	d = newDouble(t, answer,
		get(0, status(204, "Retry-After", "2")), get(0, body(200, "application/cose", "r0")),
		get(2, body(404, "application/problem+json", `{"title":"Not Found"}`)), // forgotten: once more, alone
		exchange{method: "POST", path: "/entries", answer: body(201, "application/cose", "r2")})
	got = collect(t, signed, func(done func(int, client.Registration, error)) {
		d.RegisterAll(t.Context(), slices.Values(signed), done)
	})
	if !slices.Equal(got, []string{"r0", "r1", "r2"}) || !slices.Equal(d.waits, []time.Duration{time.Second, 2 * time.Second, time.Second}) {
		t.Errorf("%q, waits %v", got, d.waits)
	}
}

func TestManyStatementsGoInSeveralRequestsOfBoundedSize(t *testing.T) {
	key := newKey(t)
	signed := claims(t, key, 250)
	post := func(n int) exchange {
		parts := make([]part, n)
		for i := range parts {
			parts[i] = part{201, "r"}
		}
		return exchange{method: "POST", path: bulkPath, answer: sequence(parts)}
	}
	d := newDouble(t, post(100), post(100), post(50))
	for n, got := range collect(t, signed, func(done func(int, client.Registration, error)) {
		d.RegisterAll(t.Context(), slices.Values(signed), done)
	}) {
		if got != "r" {
			t.Errorf("statement %d: %s", n, got)
		}
	}

	large := [][]byte{}
	for n := range 9 { // five of a MiB do not fit 4 MiB
		b, _ := claim(t, key, "https://wabbit.example", bytes.Repeat([]byte{byte(n)}, 1<<20-1<<10))
		large = append(large, b)
	}
	d = newDouble(t, post(4), post(4), post(1))
	collect(t, large, func(done func(int, client.Registration, error)) {
		d.RegisterAll(t.Context(), slices.Values(large), done)
	})
}

func TestWhatIsNoStatementHarmsNoneOfTheOthers(t *testing.T) {
	signed := claims(t, newKey(t), 2)
	mixed := [][]byte{[]byte("junk"), signed[0], nil, signed[1]}
	d := newDouble(t, exchange{method: "POST", path: bulkPath, answer: sequence([]part{{201, "r0"}, {201, "r1"}}),
		check: func(t *testing.T, _ *http.Request, got []byte) {
			if !bytes.Equal(got, slices.Concat(signed...)) {
				t.Error("something else than the two statements was sent")
			}
		}})
	got := collect(t, mixed, func(done func(int, client.Registration, error)) {
		d.RegisterAll(t.Context(), slices.Values(mixed), done)
	})
	if got[1] != "r0" || got[3] != "r1" || !strings.HasPrefix(got[0], "not a Signed Statement") || !strings.HasPrefix(got[2], "not a Signed Statement") {
		t.Errorf("%q", got)
	}
}

func TestAnswersToManyThatMakeNoSenseAreErrors(t *testing.T) {
	signed := claims(t, newKey(t), 2)
	seq := func(content string) func(http.ResponseWriter) { return body(200, "application/cbor-seq", content) }
	for name, answer := range map[string]func(http.ResponseWriter){
		"another type":            body(200, "application/json", `{"items":[]}`),
		"nothing":                 seq(""),
		"no CBOR":                 seq("\xff"),
		"cut off":                 seq("\x83\x00\x18\xc9\x45"),
		"no array":                seq("\x00"),
		"two elements":            seq("\x82\x00\x18\xc9"),
		"four elements":           seq("\x84\x00\x18\xc9\x41r\x00"),
		"text for bytes":          seq("\x83\x00\x18\xc9\x61r"),
		"begins with number one":  seq("\x83\x01\x18\xc9\x41r"),
		"one number twice":        seq("\x83\x00\x18\xc9\x41r\x83\x00\x18\xc9\x41r"),
		"a status that is none":   seq("\x83\x00\x01\x41r"),
		"more than was asked for": sequence([]part{{201, "r"}, {201, "r"}, {201, "r"}}),
		"a redirect":              status(307, "Location", "https://evil.example/"),
	} {
		t.Run(name, func(t *testing.T) {
			d := newDouble(t, exchange{method: "POST", path: bulkPath, answer: answer})
			d.RegisterAll(t.Context(), slices.Values(signed), func(n int, r client.Registration, err error) {
				if err == nil || r.Receipt != nil {
					t.Errorf("statement %d: %q, %v", n, r.Receipt, err)
				}
			})
		})
	}
}

func TestManyEndWithTheContext(t *testing.T) {
	signed := claims(t, newKey(t), 150)
	ctx, cancel := context.WithCancel(t.Context())
	d := newDouble(t, exchange{method: "POST", path: bulkPath, answer: func(w http.ResponseWriter) {
		cancel()
		sequence([]part{{201, "r"}})(w)
	}})
	told := 0
	d.RegisterAll(ctx, slices.Values(signed), func(n int, r client.Registration, err error) {
		told++
		answered := n == 0 && err == nil // it may have come before the end was noticed
		if !answered && !errors.Is(err, context.Canceled) {
			t.Errorf("statement %d: %v", n, err)
		}
	})
	if told != len(signed) {
		t.Errorf("%d outcomes for %d statements", told, len(signed))
	}
}
