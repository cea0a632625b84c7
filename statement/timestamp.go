package statement

import "github.com/scittd/scittd/internal/detcbor"

// takeTimestamps reads the time-stamp tokens of RFC 9921. Whether they hold is
// not for this package.
func (s *Statement) takeTimestamps(h headers) (err error) {
	if !h.strict {
		return nil
	}
	// SPEC RFC 9921 §3.2: 3161-ttc is a protected header, and §3.1: 3161-ctt an
	// unprotected one; what they prove differs, so that they must not mix.
	const ttc, ctt = "3161-ttc (label 269)", "3161-ctt (label 270)"
	switch {
	case h.unprotected.has(labelPayloadTimestamp):
		return malformed("%s is unprotected", ttc)
	case h.protected.has(labelTimestamp):
		return malformed("%s is in the protected header", ctt)
	}
	if raw, ok := h.protected.get(labelPayloadTimestamp); ok {
		if s.PayloadTimestamp, err = readToken(ttc, raw); err != nil {
			return err
		}
	}
	if raw, ok := h.unprotected.get(labelTimestamp); ok {
		s.Timestamp, err = readToken(ctt, raw)
	}
	return err
}

func readToken(name string, raw detcbor.RawMessage) ([]byte, error) {
	token, err := readBytes(name, raw)
	if err == nil && (len(token) == 0 || len(token) > MaxTimestamp) {
		err = malformed("%s has %d bytes; 1 to %d are read", name, len(token), MaxTimestamp)
	}
	return token, err
}

// SignatureField is what a Timestamp is of: the signature as it stands in the
// message, a byte string with its head (RFC 9921 §3.1).
func (s *Statement) SignatureField() []byte { return detcbor.AppendBytes(nil, s.signature) }
