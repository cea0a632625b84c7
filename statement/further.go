package statement

import (
	"strconv"
	"time"

	"github.com/scittd/scittd/internal/detcbor"
)

// claimNames are the texts that stand for registered claims (RFC 8392 §3.1).
var claimNames = map[int64]string{
	claimIssuer: "iss", claimSubject: "sub", 3: "aud", claimExpires: "exp", claimNotBefore: "nbf", claimIssuedAt: "iat", 7: "cti", 8: "cnf",
}

// registeredName says whether text would be taken for a registered claim.
func registeredName(text string) bool {
	for _, name := range claimNames {
		if text == name {
			return true
		}
	}
	return false
}

// Claims are all CWT claims by name: registered ones by their registered name
// (iss, sub, aud, exp, nbf, iat, cti, cnf), other numbers by their digits, texts
// by themselves. No two claims can have one name: a text that is a registered
// name is left out, for it is not the registered claim.
//
// Values are string, int64, float64, bool, []byte, []any and map[string]any; a
// date in tag 0 or 1 is its number of seconds. nil is null, or what these cannot
// hold: an integer of more than 64 bits.
func (s *Statement) Claims() map[string]any {
	protected, err := readBucket("protected header", s.protected, func(label) tagRule { return anyTag })
	if err != nil {
		return nil // not made by Parse, which has read it
	}
	raw, ok := protected.get(labelClaims)
	if !ok {
		return nil
	}
	claims, err := readBucket("CWT Claims (label 15)", raw, func(label) tagRule { return anyTag })
	if err != nil {
		return nil
	}
	all := make(map[string]any, len(claims.labels))
	for i, l := range claims.labels {
		name := l.text
		switch registered, ok := claimNames[l.n]; {
		case l.isText && registeredName(name):
			continue
		case l.isText:
		case ok:
			name = registered
		default:
			name = strconv.FormatInt(l.n, 10)
		}
		var v any
		if detcbor.Unmarshal(claims.values[i], &v) != nil {
			v = nil
		}
		all[name] = plain(v)
	}
	return all
}

// plain is v in the types that Claims promises.
func plain(v any) any {
	switch v := v.(type) {
	case string, int64, float64, bool, []byte:
		return v
	case uint64: // Unmarshal refuses those that int64 does not hold
		return int64(v)
	case float32:
		return float64(v)
	case time.Time:
		if v.Nanosecond() == 0 {
			return v.Unix()
		}
		return float64(v.Unix()) + float64(v.Nanosecond())/1e9
	case detcbor.Tag:
		return plain(v.Content)
	case []any:
		list := make([]any, len(v))
		for i, e := range v {
			list[i] = plain(e)
		}
		return list
	case map[any]any:
		object := make(map[string]any, len(v))
		for k, e := range v {
			if n, ok := k.(int64); ok {
				object[strconv.FormatInt(n, 10)] = plain(e)
			}
		}
		for k, e := range v {
			if text, ok := k.(string); ok {
				if _, taken := object[text]; !taken {
					object[text] = plain(e)
				}
			}
		}
		return object
	}
	return nil
}
