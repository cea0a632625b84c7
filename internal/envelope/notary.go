package envelope

import (
	"crypto"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/internal/detcbor"
	"github.com/scittd/scittd/statement"
)

// tagSign1 is how a tagged COSE_Sign1 begins.
const tagSign1 = 0xd2

// Header labels of a Notary Project signature.
const (
	labelAlg         = "1"
	labelCrit        = "2"
	labelContentType = "3"
	labelChain       = "33"
	labelHashAlg     = "258"
	labelScheme      = "io.cncf.notary.signingScheme"
	labelTime        = "io.cncf.notary.signingTime"
	labelTrustedTime = "io.cncf.notary.authenticSigningTime"
	labelExpiry      = "io.cncf.notary.expiry"
	labelTimestamp   = "io.cncf.notary.timestampSignature"
)

const notaryPayload = "application/vnd.cncf.notary.payload.v1+json"

// maxHeader bounds each header; maxLabels what is in it.
const (
	maxHeader = 256 << 10
	maxLabels = 64
)

// notaryAlgorithms: SPEC signature-envelope-cose, "Supported alg header values".
var notaryAlgorithms = []cose.Algorithm{cose.PS256, cose.PS384, cose.PS512, cose.ES256, cose.ES384, cose.ES512}

// parseNotary reads a Notary Project signature: a COSE_Sign1 whose payload
// describes one artifact, or is its digest. It is no Signed Statement: it has no
// CWT Claims.
func parseNotary(b []byte) (*Envelope, error) {
	e := &Envelope{Kind: Notary}
	if err := e.readNotary(b); err != nil {
		return nil, fmt.Errorf("%s: %w", e.Kind, err)
	}
	return e, nil
}

func (e *Envelope) readNotary(b []byte) error {
	r := detcbor.NewReader(b[1:])
	n, err := r.Array()
	if err != nil || n != 4 {
		return errors.New("tag 18 holds no array of four")
	}
	var signed sign1
	if signed.protected, err = r.Bytes(); err != nil {
		return fmt.Errorf("protected header: %w", err)
	}
	unprotected, err := r.Raw()
	if err != nil {
		return fmt.Errorf("unprotected header: %w", err)
	}
	if signed.payload, err = r.Bytes(); err != nil {
		return fmt.Errorf("payload: %w", err)
	}
	var s Signature
	if s.Bytes, err = r.Bytes(); err != nil {
		return fmt.Errorf("signature: %w", err)
	}
	if err := r.End(); err != nil {
		return err
	}
	p, err := readHeader(signed.protected)
	if err != nil {
		return fmt.Errorf("protected header: %w", err)
	}
	u, err := readHeader(unprotected)
	if err != nil {
		return fmt.Errorf("unprotected header: %w", err)
	}
	for l := range u {
		// SPEC RFC 9052 §3: a label MUST NOT occur in both buckets.
		if _, both := p[l]; both {
			return fmt.Errorf("label %.64s is in both headers", l)
		}
	}
	if err := e.readProtected(p, &s); err != nil {
		return err
	}
	if err := s.readChain(p, u); err != nil {
		return err
	}
	// SPEC signature-envelope-cose: a time stamp is used under notary.x509 alone.
	if raw, ok := u[labelTimestamp]; ok && p.text(labelScheme) == "notary.x509" {
		token, err := whole(raw, (*detcbor.Reader).Bytes)
		if err != nil {
			return fmt.Errorf("%s: %w", labelTimestamp, err)
		}
		s.Timestamps = [][]byte{token}
	}
	s.content = signed
	e.Signatures = []Signature{s}
	if raw, hashed := p[labelHashAlg]; hashed {
		return e.readHash(raw, signed.payload)
	}
	return e.readTarget(signed.payload)
}

// header is one header map: values by label, still encoded. A text that looks
// like an integer label is refused, so that one string names either.
type header map[string]detcbor.RawMessage

func readHeader(b []byte) (header, error) {
	if len(b) > maxHeader {
		return nil, fmt.Errorf("%d bytes; at most %d are read", len(b), maxHeader)
	}
	r := detcbor.NewReader(b)
	r.Tag = func(number uint64, content detcbor.Kind) bool { return number == 1 && content == detcbor.KindUint }
	n, err := r.Map()
	if err != nil {
		return nil, err
	}
	if n > maxLabels {
		return nil, fmt.Errorf("%d labels; at most %d are read", n, maxLabels)
	}
	h := header{}
	for range n {
		l, err := readLabel(r)
		if err != nil {
			return nil, err
		}
		if _, twice := h[l]; twice {
			return nil, fmt.Errorf("label %.64s is there twice", l)
		}
		if h[l], err = r.Raw(); err != nil {
			return nil, fmt.Errorf("label %.64s: %w", l, err)
		}
	}
	return h, r.End()
}

func readLabel(r *detcbor.Reader) (string, error) {
	if kind, err := r.Kind(); err != nil || kind != detcbor.KindText {
		n, err := r.Int()
		return fmt.Sprint(n), err
	}
	l, err := r.Text()
	if err == nil && strings.Trim(l, "+-0123456789") == "" {
		err = fmt.Errorf("text label %.64q looks like an integer", l)
	}
	return l, err
}

// whole reads one item that fills raw.
func whole[T any](raw []byte, read func(*detcbor.Reader) (T, error)) (T, error) {
	r := detcbor.NewReader(raw)
	v, err := read(r)
	if err == nil {
		err = r.End()
	}
	return v, err
}

// text is "" when the label is absent or something else.
func (h header) text(label string) string {
	t, _ := whole(h[label], (*detcbor.Reader).Text)
	return t
}

// time reads an Epoch-Based Date/Time; ok says whether the label is there.
func (h header) time(label string) (at time.Time, ok bool, err error) {
	raw, ok := h[label]
	if !ok {
		return at, false, nil
	}
	const epoch = 0xc1 // tag 1
	if raw[0] == epoch {
		raw = raw[1:]
	}
	seconds, err := whole(raw, (*detcbor.Reader).Int)
	if err != nil || seconds < 0 || seconds >= 1<<36 {
		return at, true, fmt.Errorf("%s is no time", label)
	}
	return time.Unix(seconds, 0).UTC(), true, nil
}

// readProtected holds the rules of signature-envelope-cose, "Protected Header".
func (e *Envelope) readProtected(h header, s *Signature) error {
	alg, err := whole(h[labelAlg], (*detcbor.Reader).Int)
	if err != nil || !slices.Contains(notaryAlgorithms, cose.Algorithm(alg)) {
		return errors.New("alg (label 1) is none of PS256, PS384, PS512, ES256, ES384 and ES512")
	}
	s.Algorithm = cose.Algorithm(alg)
	// SPEC RFC 9995 §4: with label 258 there MUST NOT be a content type.
	_, typed := h[labelContentType]
	if _, hashed := h[labelHashAlg]; hashed == typed {
		return errors.New("want one of content type (label 3) and payload hash algorithm (label 258)")
	}
	if t := h.text(labelContentType); typed && t != notaryPayload {
		return fmt.Errorf("content type %.100q; want %s", t, notaryPayload)
	}
	critical := []string{labelScheme}
	_, claimed, err := h.time(labelTime)
	if err != nil {
		return err
	}
	_, trusted, err := h.time(labelTrustedTime)
	if err != nil {
		return err
	}
	// SPEC: each scheme REQUIRES its own time, and the other's is not valid in it.
	switch scheme := h.text(labelScheme); {
	case scheme == "notary.x509" && claimed && !trusted:
	case scheme == "notary.x509.signingAuthority" && trusted && !claimed:
		critical = append(critical, labelTrustedTime)
	case scheme == "notary.x509", scheme == "notary.x509.signingAuthority":
		return fmt.Errorf("its time is not that of the signing scheme %s", scheme)
	default:
		return fmt.Errorf("signing scheme %.100q; want notary.x509 or notary.x509.signingAuthority", scheme)
	}
	expires, limited, err := h.time(labelExpiry)
	if err != nil {
		return err
	}
	if limited {
		critical = append(critical, labelExpiry)
		e.Expires = expires
	}
	return h.checkCritical(critical)
}

// checkCritical: SPEC: crit MUST name the critical headers that are there, and
// (RFC 9052 §3.1) what is not understood is fatal.
func (h header) checkCritical(want []string) error {
	r := detcbor.NewReader(h[labelCrit])
	n, err := r.Array()
	if err != nil {
		return errors.New("crit (label 2) is missing or no array")
	}
	var named []string
	for range n {
		l, err := readLabel(r)
		if err != nil {
			return fmt.Errorf("crit (label 2): %w", err)
		}
		if !slices.Contains(want, l) {
			return fmt.Errorf("crit (label 2) names %.64q, which is not understood here or not there", l)
		}
		named = append(named, l)
	}
	for _, l := range want {
		if !slices.Contains(named, l) {
			return fmt.Errorf("crit (label 2) does not name %s", l)
		}
	}
	return r.End()
}

// readChain reads x5chain, an array even of one.
func (s *Signature) readChain(protected, unprotected header) error {
	raw, ok := unprotected[labelChain]
	if !ok {
		raw, ok = protected[labelChain]
	}
	if !ok {
		return errors.New("x5chain (label 33) is missing")
	}
	r := detcbor.NewReader(raw)
	n, err := r.Array()
	if err != nil || n == 0 || n > statement.MaxChain {
		return fmt.Errorf("x5chain (label 33) is no array of 1 to %d certificates", statement.MaxChain)
	}
	for range n {
		der, err := r.Bytes()
		if err != nil {
			return fmt.Errorf("x5chain (label 33): %w", err)
		}
		s.Chain = append(s.Chain, der)
	}
	return nil
}

// digestSizes of the hash algorithms that a hash envelope may name.
var digestSizes = map[int64]int{-16: 32, -43: 48, -44: 64}

// readHash reads the payload of the COSE Hash Envelope form: a digest of the
// artifact itself.
func (e *Envelope) readHash(raw detcbor.RawMessage, payload []byte) error {
	alg, err := whole(raw, (*detcbor.Reader).Int)
	if size, known := digestSizes[alg]; err != nil || !known || len(payload) != size {
		return errors.New("payload is no digest by the algorithm in label 258")
	}
	d, err := statement.DigestFromBytes(payload)
	e.Artifacts = []statement.Digest{d}
	return err
}

// readTarget reads the payload: {"targetArtifact": descriptor}.
func (e *Envelope) readTarget(payload []byte) error {
	o, err := document(payload)
	if err == nil {
		o, err = o.object("targetArtifact")
	}
	if err != nil {
		return fmt.Errorf("payload: %w", err)
	}
	text, err := o.text("digest")
	if err != nil {
		return fmt.Errorf("payload: %w", err)
	}
	d, err := statement.ParseDigest(text)
	if err != nil {
		return fmt.Errorf("payload: %w", err)
	}
	e.Artifacts = []statement.Digest{d}
	return nil
}

// sign1 is what a COSE_Sign1 is signed over.
type sign1 struct{ protected, payload []byte }

func (c sign1) verify(pub crypto.PublicKey, s Signature) error {
	return cose.Verify(s.Algorithm, pub, c.protected, c.payload, s.Bytes)
}
