package client_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/scittd/scittd/client"
	"github.com/scittd/scittd/statement"
)

func TestEvidenceIsReadWhereTheServiceSendsOneWithoutTheToken(t *testing.T) {
	registry := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" || r.URL.Path != "/v2/app/blobs/x" {
			t.Errorf("%s %s with Authorization %q", r.Method, r.URL, r.Header.Get("Authorization"))
		}
		io.WriteString(w, "an sbom")
	}))
	defer registry.Close()
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer secret" {
			t.Errorf("%s with Authorization %q", r.URL, r.Header.Get("Authorization"))
		}
		http.Redirect(w, r, registry.URL+"/v2/app/blobs/x", http.StatusTemporaryRedirect)
	}))
	defer service.Close()
	c, err := client.New(service.URL, client.Options{Token: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := c.Evidence(t.Context(), statement.ID{1}); err != nil || string(got) != "an sbom" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestPagesOfAnAuditAreReadAsTheyAre(t *testing.T) {
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/decisions" {
			w.Header().Set("Content-Type", "text/html")
		} else {
			w.Header().Set("Content-Type", "application/cbor-seq")
		}
		io.WriteString(w, r.URL.RawQuery)
	}))
	defer service.Close()
	c, err := client.New(service.URL, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := c.Statements(t.Context(), 500, 7); err != nil || string(got) != "from=500&limit=7" {
		t.Errorf("statements: %q, %v", got, err)
	}
	if got, err := c.Decisions(t.Context(), 0, 500); err == nil {
		t.Errorf("decisions that are a page for people: %q", got)
	}
}
