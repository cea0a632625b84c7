package front_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/scittd/scittd/storage/embedded"
	"github.com/scittd/scittd/storage/front"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	good     = "a-token-of-at-least-thirty-two-bytes-of-entropy"
	readOnly = "another-token-that-may-not-write-anything-here"
)

// tokens is Authorize of a service with one publisher and one reader.
func tokens(r *http.Request, _ string, write bool) error {
	given, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !bearer {
		_, given, _ = r.BasicAuth()
	}
	switch {
	case given == good, given == readOnly && !write:
		return nil
	case given == readOnly:
		return front.ErrDenied
	default:
		return front.ErrUnauthenticated
	}
}

// serve puts a front over real HTTP. Without a Backend it gets an embedded
// registry.
func serve(t *testing.T, c front.Config) (url string) {
	t.Helper()
	if c.Backend == nil {
		r, err := embedded.Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		})
		c.Backend = r.Handler()
	}
	s := httptest.NewServer(front.New(c))
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		s.Close()
	})
	return s.URL
}

type answer struct {
	status int
	header http.Header
	body   string
}

// code is the code of a well-formed error document.
func (a answer) code() string {
	var doc struct {
		Errors []struct{ Code, Message string }
	}
	if json.Unmarshal([]byte(a.body), &doc) != nil || len(doc.Errors) != 1 || doc.Errors[0].Message == "" ||
		a.header.Get("Content-Type") != "application/json" {
		return ""
	}
	return doc.Errors[0].Code
}

func do(t *testing.T, method, url, body, authorization string, headers ...string) answer {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		if name == "Host" {
			req.Host = value
			continue
		}
		req.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(text)}
}
