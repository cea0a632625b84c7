package policy

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/scittd/scittd/statement"
)

// checkStated judges what follows from the statement, the policy and the time:
// all that a rule demands but its expression and what depends on the log. by is
// the issuer's rule that may admit the statement; w is narrowed to where the
// answer stays the same.
func (c *condition) checkStated(m *matter, by *rule, w *window) *Refusal {
	switch {
	case c.Deny:
		return c.refuse("deny", "this is refused on purpose; ask the operator", "%s by issuer %s is not admitted", m.what(), quote(m.Issuer))
	case !oneOf(c.Issuers, m.Issuer):
		return c.refuse("issuers", "have it signed by one of: "+quoteAll(c.Issuers), "issuer %s is not on the rule's list", quote(m.Issuer))
	case !oneOf(c.Identities, by.by.member()):
		return c.refuse("identities", "sign as an issuer that the policy knows by "+strings.Join(c.Identities, " or "),
			"issuer %s is known by %s", quote(m.Issuer), by.by.member())
	case !oneOf(c.MediaTypes, m.MediaType()):
		return c.refuse("mediaTypes", "register one of: "+quoteAll(c.MediaTypes), "%s is not on the rule's list", m.what())
	case len(c.PredicateTypes) > 0 && !slices.Contains(c.PredicateTypes, m.PredicateType()):
		return c.refuse("predicateTypes", "attach an in-toto statement with one of: "+quoteAll(c.PredicateTypes),
			"%s", unlistedPredicate(m.Statement, "is not on the rule's list", c.PredicateTypes))
	}
	if len(c.Repositories) > 0 {
		if refusal := c.checkRepositories(m); refusal != nil {
			return refusal
		}
	}
	if c.Require != nil {
		if refusal := c.checkClaims(m); refusal != nil {
			return refusal
		}
	}
	return c.checkTimes(m, w)
}

// refuse names the member of the rule that is not met. What the author of the
// policy has to say comes before our advice.
func (c *condition) refuse(member, hint, format string, args ...any) *Refusal {
	switch {
	case c.Message == "":
	case hint == "":
		hint = c.Message
	default:
		hint = c.Message + " (" + hint + ")"
	}
	return refuse(CodeRejected, c.path+"."+member, hint, format, args...)
}

// unlistedPredicate says what is wrong with the predicate type of s, which is not
// one of those that are wanted.
func unlistedPredicate(s *statement.Statement, unlisted string, wanted []string) string {
	if t := s.PredicateType(); t != "" {
		return "predicate type " + quote(t) + " " + unlisted
	}
	return fmt.Sprintf("the statement has no predicate type (it is no attached in-toto statement), and issuer %s must have one of: %s",
		quote(s.Issuer), quoteAll(wanted))
}

func (m *matter) what() string { return described("media type", m.MediaType()) }

func described(kind, text string) string {
	if text == "" {
		return "no " + kind
	}
	return kind + " " + quote(text)
}

func (c *condition) checkRepositories(m *matter) *Refusal {
	hint := "sign a sub that names a repository like " + quoteAll(c.Repositories)
	signed := m.signedRepositories()
	if len(signed) == 0 {
		return c.refuse("repositories", hint, "sub %s names no repository", quote(m.Subject))
	}
	for _, name := range signed {
		if !matchesGlob(c.Repositories, name) {
			return c.refuse("repositories", hint, "sub %s names repository %s, which is not on the rule's list", quote(m.Subject), quote(name))
		}
	}
	return nil
}

// checkClaims: SPEC RFC 9943 §6.3: what a policy asks for MUST be in the
// protected header, where the CWT claims are.
func (c *condition) checkClaims(m *matter) *Refusal {
	for _, name := range c.Require.Claims {
		if _, ok := m.claim(name); !ok {
			return c.refuse("require", "sign it with the CWT claim "+quote(name), "claim %s is missing", quote(name))
		}
	}
	for _, name := range sortedKeys(c.Require.Types) {
		want := c.Require.Types[name]
		v, ok := m.claim(name)
		if !ok || !hasType(v, want) {
			return c.refuse("require", fmt.Sprintf("sign it with the CWT claim %s as %s", quote(name), want), "claim %s is %s", quote(name), typeOf(v, ok))
		}
	}
	for _, name := range sortedKeys(c.Require.Values) {
		want := c.Require.Values[name]
		v, ok := m.claim(name)
		text, scalar := scalarText(v)
		if !ok || !scalar || text != want {
			found := typeOf(v, ok)
			if scalar {
				found = quote(text)
			}
			return c.refuse("require", fmt.Sprintf("sign it with the CWT claim %s = %s", quote(name), quote(want)), "claim %s is %s", quote(name), found)
		}
	}
	return nil
}

func hasType(v any, want string) bool {
	got := typeOf(v, true)
	return got == want || want == "number" && got == "int"
}

// typeOf names the type of a claim in the words of claimTypes.
func typeOf(v any, present bool) string {
	if !present {
		return "missing"
	}
	switch v.(type) {
	case string:
		return "text"
	case int64:
		return "int"
	case float64:
		return "number"
	case bool:
		return "bool"
	case []byte:
		return "bytes"
	case []any:
		return "list"
	case map[string]any:
		return "map"
	}
	return "null"
}

// scalarText writes a text, integer or bool out.
func scalarText(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case int64:
		return strconv.FormatInt(v, 10), true
	case bool:
		return strconv.FormatBool(v), true
	}
	return "", false
}

func (c *condition) checkTimes(m *matter, w *window) *Refusal {
	if age := time.Duration(c.MaxAge); age > 0 {
		t := m.IssuedAt
		switch {
		case t.IsZero():
			return c.refuse("maxAge", "sign it with iat", "the statement does not say when it was issued")
		case m.now.Sub(t) > age:
			return c.refuse("maxAge", "sign it again", "the statement was issued at %s, longer than %s ago", stamp(t), age)
		}
		w.narrow(time.Time{}, t.Add(age))
	}
	if c.RegisterBy == "" {
		return nil
	}
	v, ok := m.claim(c.RegisterBy)
	last, isTime := seconds(v)
	switch {
	case !isTime:
		return c.refuse("registerBy", fmt.Sprintf("sign it with the CWT claim %s: the last second in which it may be registered", quote(c.RegisterBy)),
			"claim %s is %s, not a number of seconds", quote(c.RegisterBy), typeOf(v, ok))
	case m.now.After(last):
		return c.refuse("registerBy", "sign it again with a later "+quote(c.RegisterBy), "the statement was to be registered by %s, and it is %s", stamp(last), stamp(m.now))
	}
	w.narrow(time.Time{}, last)
	return nil
}

// lastSecond is the end of the year 9999, as for the times of statements.
const lastSecond = 253402300799

// seconds reads a number of seconds since 1970 and returns the end of that one.
func seconds(v any) (time.Time, bool) {
	switch v := v.(type) {
	case int64:
		if v >= 0 && v <= lastSecond {
			return time.Unix(v, int64(time.Second-1)), true
		}
	case float64:
		if v >= 0 && v <= lastSecond {
			whole := math.Floor(v)
			return time.Unix(int64(whole), int64(time.Second-1)), true
		}
	}
	return time.Time{}, false
}
