package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// A policy is explained before there is a service, and by one that runs.
func TestAnExplanationLooksUpWhatItIsTold(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	s := newSite(t, sqliteEmbedded)
	key := publishedKey(t)
	p.put("/jwks.json", "application/jwk-set+json", toJSON(t, map[string]any{"keys": []any{jwkOf(t, key, "2026")}}))
	url := "https://localhost:" + p.port + "/jwks.json"
	s.write("lookup.pem", string(p.ca))
	s.write("claim.cose", string(issuer{"https://jwks.example", key, "2026", nil}.sign(t)))
	s.settings = []string{"--lookup-private-hosts", "localhost:" + p.port, "--lookup-ca-file", s.path("lookup.pem")}
	s.init(fmt.Sprintf("version: 1\noperators: [{key: service/keys/operator.pub}]\nissuers:\n  - {name: jwks, iss: https://jwks.example, keys: {url: %q}}\n", url))
	running := s.serve()
	for _, by := range [][]string{{"--policy", "policy.yaml"}, {"--service", s.url}} {
		for _, c := range []struct {
			flags []string
			asked int
			told  []string
		}{
			{nil, 0, []string{"lookup not looked up " + url + " ", "was not looked up, as a service would", "want: the same command with --lookup", "deny rule jwks.keys"}},
			{[]string{"--lookup"}, 0, []string{"lookup may not be asked for " + url, "want: say whom it may ask", "deny rule jwks.keys"}},
			{append([]string{"--lookup"}, s.settings...), 1, []string{"lookup found " + url + ", ", "allow rule jwks.keys"}},
			{[]string{"--dir", "service"}, 1, []string{"lookup found " + url + ", ", "allow rule jwks.keys"}},
		} {
			args := append(append([]string{"policy", "explain", "claim.cose"}, by...), c.flags...)
			before := p.times("/jwks.json")
			code, stdout, stderr := s.exit(filepath.Join(bin, "scittd"), args...)
			if denied := c.asked == 0; denied != (code == 16) || !denied && code != 0 {
				t.Errorf("%q: exit %d\n%s", args, code, stderr)
			}
			out := strings.Join(strings.Fields(stdout), " ")
			for _, text := range c.told {
				if !strings.Contains(out, text) {
					t.Errorf("%q: %q is missing in\n%s", args, text, out)
				}
			}
			if asked := p.times("/jwks.json") - before; asked != c.asked {
				t.Errorf("%q: asked %d times, want %d", args, asked, c.asked)
			}
		}
	}
	entry := strings.Repeat("0", 64)
	s.refused(2, []string{"by what was looked up then"}, "scittd", "policy", "explain", entry, "--service", s.url, "--lookup")
	s.refused(2, []string{"lookup.ca_file"}, "scittd", "policy", "explain", "claim.cose", "--policy", "policy.yaml", "--lookup", "--lookup-ca-file", "absent.pem")
	running.stop()
}
