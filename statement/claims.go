package statement

import (
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/scittd/scittd/internal/detcbor"
)

// CWT claims (RFC 8392 §3.1).
const (
	claimIssuer    = 1
	claimSubject   = 2
	claimExpires   = 4
	claimNotBefore = 5
	claimIssuedAt  = 6
)

// maxTime is the last second of the year 9999, the end of what RFC 3339 can write.
const maxTime = 253402300799

// takeClaims reads CWT Claims (RFC 9597).
func (s *Statement) takeClaims(h headers) error {
	raw, ok := h.protected.get(labelClaims)
	if !ok {
		if !h.strict {
			return nil
		}
		// SPEC RFC 9943 §6: CWT Claims MUST be in the protected header.
		return missing("CWT Claims (label 15) are not in the protected header")
	}
	tags := func(label) tagRule { return anyTag } // the header's rule has been applied
	claims, err := readBucket("CWT Claims (label 15)", raw, tags)
	if err != nil {
		return err
	}
	if !h.strict {
		s.takeWhatIsThere(claims)
		return nil
	}
	if s.Issuer, err = readParty(claims, claimIssuer, "iss (claim 1)", 4*MaxIssuer); err != nil {
		return err
	}
	// SPEC RFC 9943 §6: the length of iss MUST be between 1 and 8192 characters.
	if n := utf8.RuneCountInString(s.Issuer); n > MaxIssuer {
		return malformed("iss (claim 1) has %d characters; at most %d are accepted", n, MaxIssuer)
	}
	if s.Subject, err = readParty(claims, claimSubject, "sub (claim 2)", MaxSubject); err != nil {
		return err
	}
	if s.Expires, err = readTime(claims, claimExpires, "exp (claim 4)"); err != nil {
		return err
	}
	if s.NotBefore, err = readTime(claims, claimNotBefore, "nbf (claim 5)"); err != nil {
		return err
	}
	if s.IssuedAt, err = readTime(claims, claimIssuedAt, "iat (claim 6)"); err != nil {
		return err
	}
	if !s.Expires.IsZero() && s.Expires.Before(s.NotBefore) {
		return malformed("exp (claim 4) is before nbf (claim 5)")
	}
	return nil
}

// takeWhatIsThere reads the claims of a message that RFC 9943 does not bind:
// those that can be read.
func (s *Statement) takeWhatIsThere(claims bucket) {
	s.Issuer, _ = readParty(claims, claimIssuer, "iss", MaxProtected)
	s.Subject, _ = readParty(claims, claimSubject, "sub", MaxProtected)
	s.Expires, _ = readTime(claims, claimExpires, "exp")
	s.NotBefore, _ = readTime(claims, claimNotBefore, "nbf")
	s.IssuedAt, _ = readTime(claims, claimIssuedAt, "iat")
}

// readParty reads iss or sub.
func readParty(claims bucket, n int64, name string, limit int) (string, error) {
	raw, ok := claims.get(n)
	if !ok {
		// SPEC RFC 9943 §6: iss and sub MUST be present.
		return "", missing("%s is not in CWT Claims (label 15)", name)
	}
	return readClean(name, raw, limit)
}

// readTime reads a NumericDate: a number, in tag 1 or not.
func readTime(claims bucket, n int64, name string) (time.Time, error) {
	raw, ok := claims.get(n)
	if !ok {
		return time.Time{}, nil
	}
	const epochTag = 0xc1
	if raw[0] == epochTag {
		raw = raw[1:]
	}
	r := detcbor.NewReader(raw)
	switch kind, _ := r.Kind(); kind {
	case detcbor.KindUint, detcbor.KindNegative:
		sec, err := r.Int()
		if err != nil || sec < 0 || sec > maxTime {
			return time.Time{}, malformed("%s is outside the years 1970 to 9999", name)
		}
		return time.Unix(sec, 0).UTC(), nil
	case detcbor.KindSimple:
		var f *float64
		if err := detcbor.Unmarshal(raw, &f); err != nil || f == nil {
			break
		}
		if !(*f >= 0 && *f <= maxTime) { // NaN compares false
			return time.Time{}, malformed("%s is outside the years 1970 to 9999", name)
		}
		sec, part := math.Modf(*f)
		return time.Unix(int64(sec), int64(part*1e9)).UTC(), nil
	}
	return time.Time{}, malformed("%s is not a number of seconds", name)
}

// unclean says what keeps s, which is valid UTF-8, from being shown to people
// and stored in columns; "" when nothing does.
func unclean(s string) string {
	if s == "" {
		return "is empty"
	}
	if strings.TrimSpace(s) != s {
		return "begins or ends with a space"
	}
	for _, c := range s {
		switch {
		case unicode.IsControl(c):
			return "has a control character"
		case unicode.Is(unicode.Bidi_Control, c):
			return "has a character that changes the direction of text"
		case c == '\u2028' || c == '\u2029':
			return "has a line separator"
		}
	}
	return ""
}

// quote prints text of a stranger in an error: short, and in plain ASCII.
func quote(s string) string {
	const most = 80
	if len(s) <= most {
		return strconv.QuoteToASCII(s)
	}
	return strconv.QuoteToASCII(strings.ToValidUTF8(s[:most], "")) + "…"
}
