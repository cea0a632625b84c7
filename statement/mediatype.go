package statement

import (
	"mime"
	"strings"

	"github.com/scittd/scittd/internal/detcbor"
)

// MediaType is the index's media type: label 259 for a hash envelope, else
// label 3; lower case, without parameters; "" when absent.
func (s *Statement) MediaType() string {
	t := s.ContentType
	if s.Envelope != nil {
		t = s.Envelope.ContentType
	}
	t, _, _ = strings.Cut(t, ";")
	return strings.ToLower(strings.TrimSpace(t))
}

// readContentType reads a media type or a CoAP content-format (RFC 9052 §3.1).
// A content-format nobody told us about reads as "".
func readContentType(name string, raw detcbor.RawMessage) (string, error) {
	r := detcbor.NewReader(raw)
	switch kind, _ := r.Kind(); kind {
	case detcbor.KindText:
		t, err := r.Text()
		if err != nil {
			return "", encoding(name, err)
		}
		if len(t) > MaxMediaType {
			return "", malformed("%s has %d bytes; at most %d are accepted", name, len(t), MaxMediaType)
		}
		if !isMediaType(t) {
			return "", malformed("%s is no media type of RFC 6838: %s", name, quote(t))
		}
		return t, nil
	case detcbor.KindUint:
		n, err := r.Int()
		if err != nil {
			return "", encoding(name, err)
		}
		return contentFormats[n], nil
	default:
		return "", malformed("%s is %s, not a media type or a content-format", name, kind)
	}
}

// isMediaType checks type "/" subtype with optional parameters.
func isMediaType(t string) bool {
	full, params, more := strings.Cut(t, ";")
	kind, sub, _ := strings.Cut(strings.TrimRight(full, " "), "/")
	if !isRestrictedName(kind) || !isRestrictedName(sub) || !isPrintable(params) {
		return false
	}
	if !more {
		return full == kind+"/"+sub // RFC 9052 §3.1: no space around it
	}
	_, _, err := mime.ParseMediaType(t)
	return err == nil && strings.TrimRight(t, " ;") == t
}

// isRestrictedName checks a name by RFC 6838 §4.2: at most 127 characters, the
// first of them a letter or digit.
func isRestrictedName(s string) bool {
	if s == "" || len(s) > 127 {
		return false
	}
	for i, c := range []byte(s) {
		alphanumeric := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !alphanumeric && (i == 0 || strings.IndexByte("!#$&-^_.+", c) < 0) {
			return false
		}
	}
	return true
}

func isPrintable(s string) bool {
	for _, c := range []byte(s) {
		if c < ' ' || c > '~' {
			return false
		}
	}
	return true
}

// contentFormats are the CoAP content-formats a statement may be about
// (IANA "CoAP Content-Formats").
var contentFormats = map[int64]string{
	0:     "text/plain; charset=utf-8",
	16:    `application/cose; cose-type="cose-encrypt0"`,
	17:    `application/cose; cose-type="cose-mac0"`,
	18:    `application/cose; cose-type="cose-sign1"`,
	19:    "application/ace+cbor",
	21:    "image/gif",
	22:    "image/jpeg",
	23:    "image/png",
	40:    "application/link-format",
	41:    "application/xml",
	42:    "application/octet-stream",
	47:    "application/exi",
	50:    "application/json",
	51:    "application/json-patch+json",
	52:    "application/merge-patch+json",
	60:    "application/cbor",
	61:    "application/cwt",
	62:    "application/multipart-core",
	63:    "application/cbor-seq",
	96:    `application/cose; cose-type="cose-encrypt"`,
	97:    `application/cose; cose-type="cose-mac"`,
	98:    `application/cose; cose-type="cose-sign"`,
	101:   "application/cose-key",
	102:   "application/cose-key-set",
	110:   "application/senml+json",
	111:   "application/sensml+json",
	112:   "application/senml+cbor",
	113:   "application/sensml+cbor",
	256:   "application/coap-group+json",
	257:   "application/concise-problem-details+cbor",
	258:   "application/swid+cbor",
	277:   "application/scitt-statement+cose",
	278:   "application/scitt-receipt+cose",
	284:   "application/pkcs8",
	286:   "application/pkcs10",
	287:   "application/pkix-cert",
	432:   "application/td+json",
	433:   "application/tm+json",
	20000: "text/css",
	30000: "image/svg+xml",
}
