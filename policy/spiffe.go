package policy

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// spiffeScheme begins a SPIFFE ID.
const spiffeScheme = "spiffe://"

// maxSPIFFE bounds a SPIFFE ID.
const maxSPIFFE = 2048

var (
	trustDomain   = regexp.MustCompile(`^[a-z0-9._-]{1,255}$`)
	spiffeSegment = regexp.MustCompile(`^[a-zA-Z0-9._-]+$`)
)

// isSPIFFE says whether s, whatever its case, would be taken for a SPIFFE ID.
func isSPIFFE(s string) bool {
	return len(s) >= len("spiffe:") && strings.EqualFold(s[:len("spiffe:")], "spiffe:")
}

// checkSPIFFE: SPEC SPIFFE-ID §2: scheme, a trust domain in lower case without
// port and user, and a path of unencoded segments; no query and no fragment. One
// without a path is the trust domain itself, and signs nothing.
func checkSPIFFE(id string) error {
	rest, ok := strings.CutPrefix(id, spiffeScheme)
	domain, path, hasPath := strings.Cut(rest, "/")
	switch {
	case !ok:
		return fmt.Errorf("%s does not begin with %s", quote(id), spiffeScheme)
	case len(id) > maxSPIFFE:
		return fmt.Errorf("a SPIFFE ID has at most %d bytes", maxSPIFFE)
	case !trustDomain.MatchString(domain):
		return fmt.Errorf("the trust domain of %s is not of lower-case letters, digits, '.', '-' and '_' alone", quote(id))
	case !hasPath:
		return fmt.Errorf("%s is a trust domain; a workload has a path, too", quote(id))
	}
	for segment := range strings.SplitSeq(path, "/") {
		if !spiffeSegment.MatchString(segment) || segment == "." || segment == ".." {
			return fmt.Errorf("the path of %s is not of segments of letters, digits, '.', '-' and '_'", quote(id))
		}
	}
	return nil
}

// checkSVID: SPEC X509-SVID §2: exactly one URI SAN, and it is the SPIFFE ID.
func checkSVID(names []altName) error {
	var id string
	for _, n := range names {
		if n.tag != tagURI {
			continue
		}
		if id != "" {
			return errors.New("it names several URIs, and a SPIFFE certificate exactly one")
		}
		id = n.value
	}
	return checkSPIFFE(id)
}

// domainOf is the one trust domain that an anchored pattern stays in: the
// literal that it begins with. "" when there is none.
func domainOf(pattern string) string {
	rest, ok := strings.CutPrefix(literalOf(pattern), spiffeScheme)
	domain, _, whole := strings.Cut(rest, "/")
	if !ok || !whole || !trustDomain.MatchString(domain) {
		return ""
	}
	return domain
}
