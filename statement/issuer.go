package statement

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// IssuerPrefix stands for an issuer and for all issuers below it. Segments are
// compared whole and byte for byte: https://good.example covers
// https://good.example/team, but neither https://good.example.evil nor
// https://good.example@evil nor https://good.example:8443.
//
// It ends in what ends a segment: ":" in a DID or URN, "/" in any other issuer.
// The server finds the same issuers in SQL, so Covers must stay this simple.
type IssuerPrefix string

// ParseIssuerPrefix reads a prefix, with or without its last separator. What
// names no issuer, such as https:// or did:web, is refused: it would cover
// everybody's.
func ParseIssuerPrefix(text string) (IssuerPrefix, error) {
	end, open := "/", 0
	if strings.HasPrefix(text, "did:") || strings.HasPrefix(text, "urn:") {
		end, open = ":", 2 // scheme:method: or scheme:namespace:
	}
	name := strings.TrimSuffix(text, end)
	switch {
	case !utf8.ValidString(name) || strings.ContainsRune(name, 0):
		return "", fmt.Errorf("%s is no clean text", quote(text))
	case utf8.RuneCountInString(name) > MaxIssuer:
		return "", fmt.Errorf("it is longer than %d characters", MaxIssuer)
	case name == "" || strings.HasSuffix(name, "/") || strings.HasSuffix(name, ":") || strings.Count(name, ":") < open:
		return "", fmt.Errorf("%s names no issuer", quote(text))
	}
	return IssuerPrefix(name + end), nil
}

// Covers says whether iss is the issuer that p names, or below it. The zero
// IssuerPrefix covers nobody.
func (p IssuerPrefix) Covers(iss string) bool {
	return p != "" && strings.HasPrefix(iss+string(p[len(p)-1:]), string(p))
}
