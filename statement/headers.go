package statement

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/internal/detcbor"
)

// Header labels (IANA "COSE Header Parameters").
const (
	labelAlg              = 1
	labelCrit             = 2
	labelContentType      = 3
	labelKeyID            = 4
	labelIV               = 5
	labelPartialIV        = 6
	labelClaims           = 15
	labelType             = 16
	labelChain            = 33
	labelThumbprint       = 34
	labelHashAlg          = 258
	labelPreimage         = 259
	labelLocation         = 260
	labelPayloadTimestamp = 269
	labelTimestamp        = 270
	labelReceipts         = 394
)

// understood are the labels that crit may name: what a header of that label
// says is acted upon or kept, and checked.
var understood = map[int64]bool{
	labelAlg: true, labelContentType: true, labelKeyID: true, labelClaims: true,
	labelChain: true, labelThumbprint: true,
	labelHashAlg: true, labelPreimage: true, labelLocation: true,
}

// label is a header label or the key of a claim: an integer or a text.
type label struct {
	n      int64
	text   string
	isText bool
}

func (l label) String() string {
	if l.isText {
		return quote(l.text)
	}
	return strconv.FormatInt(l.n, 10)
}

// readLabel reads a label. SPEC RFC 9052 §1.5: label = int / tstr.
func readLabel(r *detcbor.Reader) (label, error) {
	kind, err := r.Kind()
	if err != nil {
		return label{}, err
	}
	if kind != detcbor.KindText {
		n, err := r.Int()
		return label{n: n}, err
	}
	text, err := r.Text()
	if err == nil && spellsInteger(text) {
		err = fmt.Errorf("text label %s looks like an integer", quote(text))
	}
	return label{text: text, isText: true}, err
}

// spellsInteger finds the labels that print like another label.
func spellsInteger(s string) bool {
	digits := strings.TrimLeft(s, "+-")
	return digits != "" && strings.Trim(digits, "0123456789") == ""
}

// bucket is one header map, or the claims: values by label, still encoded.
type bucket struct {
	name   string // for errors
	labels []label
	values []detcbor.RawMessage
}

func (b bucket) find(l label) (detcbor.RawMessage, bool) {
	for i := range b.labels {
		if b.labels[i] == l {
			return b.values[i], true
		}
	}
	return nil, false
}

func (b bucket) get(n int64) (detcbor.RawMessage, bool) { return b.find(label{n: n}) }
func (b bucket) has(n int64) bool                       { _, ok := b.get(n); return ok }

// readBucket reads exactly one map. tags says which tags the value of a label may hold.
func readBucket(name string, b []byte, tags func(label) tagRule) (bucket, error) {
	h := bucket{name: name}
	r := detcbor.NewReader(b)
	n, err := r.Map()
	if err != nil {
		return h, encoding(name, err)
	}
	if n > MaxLabels {
		return h, malformed("%s has %d labels; at most %d are read", name, n, MaxLabels)
	}
	for range n {
		l, err := readLabel(r)
		if err != nil {
			return h, encoding(name, err)
		}
		// SPEC RFC 9052 §3: labels in each of the maps MUST be unique.
		if _, twice := h.find(l); twice {
			return h, fmt.Errorf("%w: %s has label %s twice", ErrDuplicateLabel, name, l)
		}
		r.Tag = tags(l)
		v, err := r.Raw()
		if err != nil {
			return h, encoding(fmt.Sprintf("%s, label %s", name, l), err)
		}
		h.labels = append(h.labels, l)
		h.values = append(h.values, v)
	}
	if err := r.End(); err != nil {
		return h, encoding(name, err)
	}
	return h, nil
}

// tagRule says which tags may stand on which content; nil is none.
type tagRule = func(number uint64, content detcbor.Kind) bool

// anyTag is what messages of other people may carry.
func anyTag(uint64, detcbor.Kind) bool { return true }

// dateTag allows the two tags of dates (RFC 8949 §3.4), which real services put
// into claims although RFC 8392 does without.
func dateTag(number uint64, content detcbor.Kind) bool {
	switch number {
	case 0:
		return content == detcbor.KindText
	case 1:
		return content == detcbor.KindUint || content == detcbor.KindNegative || content == detcbor.KindSimple
	}
	return false
}

// tagsIn is the rule outside of claims.
func tagsIn(strict bool) tagRule {
	if strict {
		return nil
	}
	return anyTag
}

// headers are the two buckets of a message.
type headers struct {
	protected, unprotected bucket
	strict                 bool // RFC 9943 applies, and not only COSE
}

func readHeaders(protected, unprotected []byte, strict bool) (h headers, err error) {
	h.strict = strict
	inProtected := func(l label) tagRule {
		if strict && l == (label{n: labelClaims}) {
			return dateTag
		}
		return tagsIn(strict)
	}
	// SPEC RFC 9052 §3: an empty protected header may be a byte string of length 0.
	if len(protected) > 0 || strict {
		if h.protected, err = readBucket("protected header", protected, inProtected); err != nil {
			return h, err
		}
	}
	anywhere := func(label) tagRule { return tagsIn(strict) }
	if h.unprotected, err = readBucket("unprotected header", unprotected, anywhere); err != nil {
		return h, err
	}
	return h, h.check()
}

// check holds the rules of COSE that need both buckets.
func (h headers) check() error {
	// SPEC RFC 9052 §3: a label MUST NOT occur in both buckets.
	for _, l := range h.unprotected.labels {
		if _, both := h.protected.find(l); both {
			return fmt.Errorf("%w: label %s is in both headers", ErrDuplicateLabel, l)
		}
	}
	// SPEC RFC 9052 §3.1: IV and Partial IV MUST NOT both be present.
	has := func(n int64) bool { return h.protected.has(n) || h.unprotected.has(n) }
	if has(labelIV) && has(labelPartialIV) {
		return malformed("IV (label 5) together with Partial IV (label 6)")
	}
	return h.checkCritical()
}

// checkCritical enforces RFC 9052 §3.1 on crit.
func (h headers) checkCritical() error {
	// SPEC RFC 9052 §3.1: crit MUST be in the protected header.
	if h.unprotected.has(labelCrit) {
		return malformed("crit (label 2) is unprotected")
	}
	raw, ok := h.protected.get(labelCrit)
	if !ok {
		return nil
	}
	r := detcbor.NewReader(raw)
	n, err := r.Array()
	if err != nil {
		return encoding("crit (label 2)", err)
	}
	// SPEC RFC 9052 §3.1: the array MUST have at least one value.
	if n == 0 {
		return malformed("crit (label 2) is empty")
	}
	for range n {
		l, err := readLabel(r)
		if err != nil {
			return encoding("crit (label 2)", err)
		}
		// SPEC RFC 9052 §3.1: what crit names MUST be in the protected header.
		if _, ok := h.protected.find(l); !ok {
			return malformed("crit (label 2) names label %s, which is not in the protected header", l)
		}
		// SPEC RFC 9052 §3.1: a label that is not understood is fatal.
		if l.isText || !understood[l.n] {
			return fmt.Errorf("%w: label %s", ErrUnknownCrit, l)
		}
	}
	return nil
}

// take fills s from the headers, in the order of RFC 9943 §6.
func (s *Statement) take(h headers) error {
	for _, step := range []func(headers) error{
		s.takeAlgorithm, s.takeClaims, s.takeKey, s.takeContent, s.takeReceipts, s.takeTimestamps,
	} {
		if err := step(h); err != nil {
			return err
		}
	}
	return nil
}

func (s *Statement) takeAlgorithm(h headers) error {
	raw, ok := h.protected.get(labelAlg)
	if !ok {
		if !h.strict {
			return nil
		}
		// SPEC RFC 9052 §3.1: alg MUST be authenticated where the structure can do so.
		return missing("alg (label 1) is not in the protected header")
	}
	r := detcbor.NewReader(raw)
	switch kind, _ := r.Kind(); kind {
	case detcbor.KindUint, detcbor.KindNegative:
	case detcbor.KindText:
		if !h.strict {
			return nil
		}
		name, _ := r.Text()
		// SPEC RFC 9943 §6.1 (CDDL): alg is an int.
		return fmt.Errorf("%w: alg (label 1) is the text %s, not an integer", ErrAlgorithm, quote(name))
	default:
		return malformed("alg (label 1) is %s, not an integer", kind)
	}
	n, err := r.Int()
	if err != nil {
		return encoding("alg (label 1)", err)
	}
	s.Alg = cose.Algorithm(n)
	if h.strict && !s.Alg.Supported() {
		return fmt.Errorf("%w: alg (label 1) %d is not one that is accepted here", ErrAlgorithm, n)
	}
	return nil
}

// takeKey reads what leads to the verification key: kid, x5t, x5chain.
func (s *Statement) takeKey(h headers) (err error) {
	if raw, ok := h.protected.get(labelKeyID); ok {
		s.KeyID, err = readBytes("kid (label 4)", raw)
	} else if raw, ok := h.unprotected.get(labelKeyID); ok && !h.strict {
		s.KeyID, err = readBytes("kid (label 4)", raw)
	}
	if err != nil {
		return err
	}
	if raw, ok := h.protected.get(labelThumbprint); ok {
		if s.Thumbprint, err = readThumbprint(raw); err != nil {
			return err
		}
	}
	raw, ok := h.protected.get(labelChain)
	s.ChainProtected = ok
	if !ok {
		raw, ok = h.unprotected.get(labelChain)
	}
	if ok {
		if s.Chain, err = readChain(raw); err != nil {
			return err
		}
	}
	// SPEC RFC 9943 §6: kid MUST be present when neither x5t nor x5chain is protected.
	if h.strict && s.KeyID == nil && s.Thumbprint == nil && !s.ChainProtected {
		return missing("the protected header has none of kid (4), x5t (34) and x5chain (33)")
	}
	return s.checkThumbprint()
}

func (s *Statement) takeContent(h headers) (err error) {
	if raw, ok := h.protected.get(labelContentType); ok {
		if s.ContentType, err = readContentType("content type (label 3)", raw); err != nil && h.strict {
			return err
		}
	}
	raw, ok := h.protected.get(labelType)
	if ok && h.strict {
		// SPEC RFC 9596 §2: typ is a content-format or a media type.
		if _, err := readContentType("typ (label 16)", raw); err != nil {
			return err
		}
	}
	return s.takeEnvelope(h)
}

// takeEnvelope reads the three labels of RFC 9995.
func (s *Statement) takeEnvelope(h headers) (err error) {
	for _, n := range []int64{labelHashAlg, labelPreimage, labelLocation} {
		// SPEC RFC 9995 §3: 258, 259 and 260 MUST NOT be unprotected.
		if h.unprotected.has(n) {
			return malformed("label %d of a hash envelope is unprotected", n)
		}
	}
	raw, ok := h.protected.get(labelHashAlg)
	if !ok {
		if h.strict && (h.protected.has(labelPreimage) || h.protected.has(labelLocation)) {
			return malformed("label 259 or 260 of a hash envelope without label 258")
		}
		return nil
	}
	var e HashEnvelope
	if e.Alg, err = readInt("payload-hash-alg (label 258)", raw); err != nil {
		return err
	}
	if hashSize(e.Alg) == 0 {
		return malformed("payload-hash-alg (label 258) is %d; accepted are -16, -43, -44", e.Alg)
	}
	// SPEC RFC 9995 §3: label 3 MUST NOT appear in either bucket.
	if h.protected.has(labelContentType) || h.unprotected.has(labelContentType) {
		return malformed("content type (label 3) in a hash envelope (label 258); its type is label 259")
	}
	if raw, ok := h.protected.get(labelPreimage); ok {
		if e.ContentType, err = readContentType("preimage content type (label 259)", raw); err != nil {
			return err
		}
	}
	if raw, ok := h.protected.get(labelLocation); ok {
		if e.Location, err = readClean("payload location (label 260)", raw, MaxLocation); err != nil {
			return err
		}
	}
	s.Envelope = &e
	return nil
}

// takeReceipts reads the receipts of a Transparent Statement.
func (s *Statement) takeReceipts(h headers) error {
	const name = "receipts (label 394)"
	raw, ok := h.unprotected.get(labelReceipts)
	if !ok {
		return nil
	}
	r := detcbor.NewReader(raw)
	n, err := r.Array()
	if err != nil {
		return encoding(name, err)
	}
	// SPEC RFC 9942 §4.2: one or more receipts, each in a byte string.
	if n == 0 {
		return malformed("%s is an empty array; leave it out", name)
	}
	for range n {
		receipt, err := r.Bytes()
		if err != nil {
			return encoding(name, err)
		}
		s.Receipts = append(s.Receipts, receipt)
	}
	return nil
}

func readInt(name string, raw detcbor.RawMessage) (int64, error) {
	n, err := detcbor.NewReader(raw).Int()
	if err != nil {
		return 0, encoding(name, err)
	}
	return n, nil
}

func readBytes(name string, raw detcbor.RawMessage) ([]byte, error) {
	b, err := detcbor.NewReader(raw).Bytes()
	if err != nil {
		return nil, encoding(name, err)
	}
	return b, nil
}

// readClean reads text that will be shown, stored and sent on.
func readClean(name string, raw detcbor.RawMessage, limit int) (string, error) {
	s, err := detcbor.NewReader(raw).Text()
	if err != nil {
		return "", encoding(name, err)
	}
	if len(s) > limit {
		return "", malformed("%s has %d bytes; at most %d are accepted", name, len(s), limit)
	}
	if fault := unclean(s); fault != "" {
		return "", malformed("%s %s: %s", name, fault, quote(s))
	}
	return s, nil
}
