package main

import (
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestACAFileReplacesTheSystemsRoots(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, `{"items":[]}`)
	}))
	defer server.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(ca, text, 0o644); err != nil {
		t.Fatal(err)
	}
	scitt := func(args ...string) (int, string) {
		var stderr strings.Builder
		p := process{func(string) string { return "" }, strings.NewReader(""), io.Discard, &stderr}
		return run(t.Context(), args, p), stderr.String()
	}
	query := []string{"query", "--allow-empty", "--service", server.URL}
	if code, text := scitt(append(query, "--ca-file", ca)...); code != 0 {
		t.Errorf("with the CA: exit %d, %s", code, text)
	}
	if code, text := scitt(query...); code != exitFailed || !strings.Contains(text, "certificate") {
		t.Errorf("without the CA: exit %d, %s", code, text)
	}
}

func TestHostsAreComparedWithTheirPorts(t *testing.T) {
	for _, c := range []struct {
		service, host string
		want          bool
	}{
		{"https://registry.example", "registry.example", true},
		{"https://registry.example:443/", "registry.example", true},
		{"https://registry.example", "registry.example:443", true},
		{"http://registry.example", "registry.example:443", false},
		{"http://[::1]:8080", "[::1]:8080", true},
		{"https://registry.example", "registry.example.evil", false},
		{"https://registry.example@evil.example", "registry.example", false},
		{":", "registry.example", false},
	} {
		if got := sameHost(c.service, c.host); got != c.want {
			t.Errorf("%s is on %s: %t, want %t", c.service, c.host, got, c.want)
		}
	}
}
