package policy

import (
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
)

// altName is a subject alternative name as it stands in the certificate: not
// parsed and printed again, for that would make different names equal.
type altName struct {
	tag   int
	value string
}

// Tags of GeneralName that can name an issuer (RFC 5280 §4.2.1.6).
const (
	tagEmail = 1
	tagDNS   = 2
	tagURI   = 6

	noTag = -1 // of what is no GeneralName
)

func parseAltName(s string) altName {
	switch {
	case strings.Contains(s, ":"):
		return altName{tagURI, s}
	case strings.Contains(s, "@"):
		return altName{tagEmail, s}
	default:
		return altName{tagDNS, s}
	}
}

// altNames reads all names of c, those of other kinds among them: where one name
// is allowed, they count. crypto/x509 has checked the extension already.
func altNames(c *x509.Certificate) []altName {
	var names []altName
	for _, e := range c.Extensions {
		if !e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 17}) {
			continue
		}
		var list asn1.RawValue
		if _, err := asn1.Unmarshal(e.Value, &list); err != nil {
			return nil
		}
		for rest := list.Bytes; len(rest) > 0; {
			var name asn1.RawValue
			var err error
			if rest, err = asn1.Unmarshal(rest, &name); err != nil {
				return nil
			}
			if name.Class != asn1.ClassContextSpecific {
				name.Tag = noTag
			}
			names = append(names, altName{name.Tag, string(name.Bytes)})
		}
	}
	return names
}

// naming says which names of certificates are meant: one, or all that fit a glob
// or, where a policy insists, an expression. The zero naming is none.
type naming struct {
	tag     int // 0: a URI or a mail address
	literal string
	glob    glob           // where literal is ""
	regexp  *regexp.Regexp // where that is "", too
}

// hasHost: what comes before a * names scheme and host.
var hasHost = regexp.MustCompile(`^[a-z][a-z0-9+.-]*://[^/]+/`)

// newNaming reads an exact name, or a URI or mail address in which * stands for
// what may vary.
func newNaming(s string) (naming, error) {
	name := parseAltName(s)
	n := naming{tag: name.tag}
	if len(s) > maxPattern || !printable(s) {
		return n, fmt.Errorf("%s is not printable text of at most %d bytes", quote(s), maxPattern)
	}
	// What says whose names these are is never left open.
	before, _, starred := strings.Cut(s, "*")
	switch {
	case !starred:
		n.literal = s
		return n, nil
	case name.tag == tagDNS:
		return n, fmt.Errorf("%s; DNS names compare as exact strings", quote(s))
	case name.tag == tagURI && !hasHost.MatchString(before):
		return n, fmt.Errorf("%s; * may stand only for what follows scheme://host/", quote(s))
	case name.tag == tagEmail && strings.ContainsAny(s[strings.Index(s, "@")+1:], "*@"):
		return n, fmt.Errorf("%s; * may stand only for what precedes @", quote(s))
	}
	if strings.Contains(s, "**") {
		return n, fmt.Errorf("%s; one * stands for what is between two slashes, and nothing stands for more", quote(s))
	}
	n.glob = glob(s)
	return n, nil
}

func (n naming) admits(name altName) bool {
	switch {
	case n.tag == 0 && name.tag != tagURI && name.tag != tagEmail, n.tag != 0 && n.tag != name.tag:
		return false
	case n.literal != "":
		return n.literal == name.value
	case n.regexp != nil:
		return n.regexp.MatchString(name.value)
	}
	return n.glob.matches(name.value)
}

// meets says whether a name could be meant by both. Where that cannot be told,
// it could.
func (n naming) meets(m naming) bool {
	switch {
	case n.literal != "":
		return m.admits(altName{n.tag, n.literal})
	case m.literal != "":
		return n.admits(altName{m.tag, m.literal})
	case n.regexp != nil || m.regexp != nil:
		a, b := n.begin(), m.begin()
		return strings.HasPrefix(a, b) || strings.HasPrefix(b, a)
	}
	return n.tag == m.tag && n.glob.meets(m.glob)
}

// begin is what all names that n admits begin with.
func (n naming) begin() string {
	if n.regexp != nil {
		return literalOf(n.regexp.String())
	}
	before, _, _ := strings.Cut(string(n.glob), "*")
	return before
}

// literalOf is what an anchored pattern begins with, as far as that is fixed.
func literalOf(pattern string) string {
	re, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil || len(re.Sub) < 2 || re.Sub[1].Op != syntax.OpLiteral || re.Sub[1].Flags&syntax.FoldCase != 0 {
		return ""
	}
	return string(re.Sub[1].Rune)
}

func (n naming) String() string {
	if n.regexp != nil {
		return n.regexp.String()
	}
	return n.literal + string(n.glob)
}

// glob is text in which * stands for one or more characters other than "/".
type glob string

func (g glob) exact() bool { return !strings.Contains(string(g), "*") }

func (g glob) matches(s string) bool {
	if g.exact() {
		return string(g) == s
	}
	pattern, text := strings.Split(string(g), "/"), strings.Split(s, "/")
	return slices.EqualFunc(pattern, text, matchSegment)
}

// matchSegment compares what is between two slashes. What follows a * is looked
// for from the left, which finds it if it is anywhere.
func matchSegment(pattern, text string) bool {
	first, rest, starred := strings.Cut(pattern, "*")
	text, ok := strings.CutPrefix(text, first)
	if !ok || !starred {
		return ok && text == ""
	}
	for {
		var literal string
		literal, rest, starred = strings.Cut(rest, "*")
		if text == "" {
			return false
		}
		if !starred {
			return len(text) > len(literal) && strings.HasSuffix(text, literal)
		}
		at := strings.Index(text[1:], literal)
		if at < 0 {
			return false
		}
		text = text[1+at+len(literal):]
	}
}

// meets says whether some text matches both.
func (g glob) meets(h glob) bool {
	return slices.EqualFunc(strings.Split(string(g), "/"), strings.Split(string(h), "/"), func(a, b string) bool {
		return meet(symbols(a), symbols(b))
	})
}

// Symbols of a glob beside its characters: any one character, and any number.
const (
	one  = -1
	many = -2
)

func symbols(segment string) []rune {
	var all []rune
	for _, r := range segment {
		if r == '*' {
			all = append(all, one, many)
		} else {
			all = append(all, r)
		}
	}
	return all
}

// meet says whether some text matches a and b. Of all pairs of their rests it
// finds out the same, the shortest first.
func meet(a, b []rune) bool {
	rests := make([][]bool, len(a)+1)
	for i := len(a); i >= 0; i-- {
		rests[i] = make([]bool, len(b)+1)
		for j := len(b); j >= 0; j-- {
			switch inA, inB := i < len(a), j < len(b); {
			case !inA && !inB:
				rests[i][j] = true
			case inA && a[i] == many && rests[i+1][j], inB && b[j] == many && rests[i][j+1]:
				rests[i][j] = true // it stands for nothing
			case !inA || !inB:
			case a[i] == many:
				rests[i][j] = rests[i][j+1]
			case b[j] == many:
				rests[i][j] = rests[i+1][j]
			case a[i] == b[j] || a[i] == one || b[j] == one:
				rests[i][j] = rests[i+1][j+1]
			}
		}
	}
	return rests[0][0]
}
