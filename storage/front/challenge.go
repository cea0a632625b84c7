package front

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// challenges makes a registry's demand for credentials one that leads nowhere
// but here: the realm of tokens becomes ours, service and scope stay. Strict
// clients take no other (http under https, or a private address that is not the
// registry's), and credentials would leave for wherever it says.
func (u *Upstream) challenges(resp *http.Response, o origin) error {
	values := resp.Header.Values("Www-Authenticate")
	if len(values) == 0 && resp.StatusCode != http.StatusUnauthorized {
		return nil
	}
	var kept []string
	for _, v := range values {
		for _, c := range parseChallenges(v) {
			switch {
			case strings.EqualFold(c.scheme, "Basic"):
				kept = append(kept, c.String())
			case strings.EqualFold(c.scheme, "Bearer"):
				realm, err := u.trustedRealm(c.realm(), o)
				if err != nil {
					return err
				}
				u.realm.Store(realm)
				ours := o.String() + realmPath
				if u.routed {
					ours = c.realm()
				}
				kept = append(kept, c.withRealm(ours).String())
			}
		}
	}
	// SPEC RFC 9110 §15.5.2: a 401 MUST have a challenge.
	if len(kept) == 0 && resp.StatusCode == http.StatusUnauthorized {
		return &misleads{"it asks for credentials in no way that registries do"}
	}
	resp.Header["Www-Authenticate"] = kept
	return nil
}

// trustedRealm is where tokens are asked for. Callers' passwords go there, so it
// is the registry itself, or one of its token hosts.
func (u *Upstream) trustedRealm(text string, o origin) (*url.URL, error) {
	realm, err := url.Parse(text)
	switch {
	case err != nil || realm.Host == "" || realm.User != nil || realm.Fragment != "" || realm.Scheme != "https" && realm.Scheme != "http":
		return nil, &misleads{"its token realm is malformed"}
	case u.itself(realm, o):
		// Also where it takes our name for its own.
		realm.Scheme, realm.Host = u.base.Scheme, u.base.Host
	case !u.trusts[strings.ToLower(realm.Host)]:
		return nil, &misleads{fmt.Sprintf("its token realm is at %s, which is not among its token hosts", realm.Host)}
	case realm.Scheme != "https" && u.base.Scheme == "https":
		return nil, &misleads{fmt.Sprintf("its token realm is at %s without TLS", realm.Host)}
	}
	return realm, nil
}

// challenge is one of WWW-Authenticate, its parameters as they were written.
type challenge struct {
	scheme string
	params []string // `realm="https://…"`
}

func (c challenge) String() string {
	return strings.TrimSpace(c.scheme + " " + strings.Join(c.params, ","))
}

func (c challenge) realm() string {
	for _, p := range c.params {
		if name, value, _ := strings.Cut(p, "="); strings.EqualFold(strings.TrimSpace(name), "realm") {
			return unquote(strings.TrimSpace(value))
		}
	}
	return ""
}

// withRealm is the same demand with another realm. Only what clients pass on to
// the realm, or show, stays with it.
func (c challenge) withRealm(realm string) challenge {
	to := challenge{scheme: c.scheme, params: []string{`realm="` + realm + `"`}}
	for _, p := range c.params {
		name, _, _ := strings.Cut(p, "=")
		switch strings.ToLower(strings.TrimSpace(name)) {
		case "service", "scope", "error", "error_description":
			to.params = append(to.params, p)
		}
	}
	return to
}

// parseChallenges reads a header value (RFC 9110 §11.6.1): a comma separates
// challenges as well as parameters, and means nothing inside quotes. What it
// cannot read it leaves out.
func parseChallenges(value string) []challenge {
	var all []challenge
	for _, part := range splitQuoted(value) {
		part = strings.TrimSpace(part)
		scheme, rest, spaced := strings.Cut(part, " ")
		switch name, _, isParam := strings.Cut(part, "="); {
		case part == "", !closed(part), strings.ContainsAny(name, "\"\\"):
		case isParam && !strings.Contains(strings.TrimSpace(name), " "): // of the challenge before
			if len(all) > 0 {
				last := &all[len(all)-1]
				last.params = append(last.params, part)
			}
		case spaced:
			all = append(all, challenge{scheme, []string{strings.TrimSpace(rest)}})
		default:
			all = append(all, challenge{scheme: part})
		}
	}
	return all
}

// splitQuoted splits at commas outside of quoted strings.
func splitQuoted(s string) []string {
	var parts []string
	quoted, begin := false, 0
	for i := 0; i < len(s); i++ {
		switch {
		case quoted && s[i] == '\\':
			i++
		case s[i] == '"':
			quoted = !quoted
		case s[i] == ',' && !quoted:
			parts = append(parts, s[begin:i])
			begin = i + 1
		}
	}
	return append(parts, s[begin:])
}

// closed: every quote in s has its other one.
func closed(s string) bool {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch {
		case quoted && s[i] == '\\':
			i++
		case s[i] == '"':
			quoted = !quoted
		}
	}
	return !quoted
}

// unquote reads a quoted-string, or a token.
func unquote(s string) string {
	if len(s) < 2 || s[0] != '"' || s[len(s)-1] != '"' {
		return s
	}
	var b strings.Builder
	for i := 1; i < len(s)-1; i++ {
		if s[i] == '\\' && i+1 < len(s)-1 {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
