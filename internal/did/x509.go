package did

import (
	"crypto"
	_ "crypto/sha256" // for the fingerprints
	_ "crypto/sha512"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// X509 is a did:x509, version 0: who has a certificate under a certain CA, with
// certain names and usages. Source: microsoft/did-x509, specification.md.
type X509 struct {
	text        string // without a fragment
	hash        crypto.Hash
	fingerprint []byte
	predicates  []predicate
}

// predicate is one condition on the leaf.
type predicate struct {
	name  string // "subject", "san", "eku", "fulcio-issuer"
	items []string
}

// noMatch is of a chain that may be sound, but is not one that a did:x509 means.
func noMatch(format string, args ...any) error {
	return fmt.Errorf("the certificates are not those that the did:x509 means: "+format, args...)
}

var fingerprints = map[string]crypto.Hash{"sha256": crypto.SHA256, "sha384": crypto.SHA384, "sha512": crypto.SHA512}

var (
	idchars   = regexp.MustCompile(`^([A-Za-z0-9._-]|%[0-9A-Fa-f]{2})+$`)
	dottedOID = regexp.MustCompile(`^[0-9]+(\.[0-9]+)*$`)
)

// ParseX509 reads a did:x509, or a DID URL of one with a fragment.
func ParseX509(did string) (*X509, error) {
	fail := func(format string, args ...any) (*X509, error) {
		return nil, malformed("did:x509: "+format, args...)
	}
	text, _, _ := strings.Cut(did, "#")
	rest, ok := strings.CutPrefix(text, "did:x509:")
	if !ok {
		return fail("the prefix is missing")
	}
	// SPEC did:x509, Method-specific Identifier: no path and no query.
	if strings.ContainsAny(rest, "/?") {
		return fail("it has a path or a query")
	}
	parts := strings.Split(rest, "::")
	head := strings.Split(parts[0], ":")
	if len(head) != 3 || head[0] != "0" {
		return fail("want 0:<algorithm>:<fingerprint> of version 0, not %s", quote(parts[0]))
	}
	d := &X509{text: text, hash: fingerprints[head[1]]}
	if d.hash == 0 {
		return fail("fingerprint algorithm %s is none of sha256, sha384, sha512", quote(head[1]))
	}
	var err error
	if d.fingerprint, err = base64.RawURLEncoding.Strict().DecodeString(head[2]); err != nil || len(d.fingerprint) != d.hash.Size() {
		return fail("fingerprint %s is not the base64url of a %s", quote(head[2]), head[1])
	}
	if len(parts) < 2 {
		return fail("it has no predicate")
	}
	for _, part := range parts[1:] {
		p, err := parsePredicate(part)
		if err != nil {
			return fail("%s: %w", quote(part), err)
		}
		d.predicates = append(d.predicates, p)
	}
	return d, nil
}

// String is the DID, without a fragment.
func (d *X509) String() string { return d.text }

// NamesUsage says whether the DID asks for an extended key usage: without one,
// any end-entity certificate with the name will do.
func (d *X509) NamesUsage() bool {
	return slices.ContainsFunc(d.predicates, func(p predicate) bool { return p.name == "eku" })
}

var sanTypes = map[string]int{"email": 1, "dns": 2, "uri": 6} // GeneralName, RFC 5280 §4.2.1.6

// attributes are the short names of RFC 4514 that a subject predicate may use.
var attributes = map[string]string{
	"CN": "2.5.4.3", "L": "2.5.4.7", "ST": "2.5.4.8", "O": "2.5.4.10", "OU": "2.5.4.11", "C": "2.5.4.6", "STREET": "2.5.4.9",
}

func parsePredicate(text string) (predicate, error) {
	name, value, _ := strings.Cut(text, ":")
	p := predicate{name: name}
	for item := range strings.SplitSeq(value, ":") {
		plain, err := url.PathUnescape(item)
		if err != nil || !idchars.MatchString(item) {
			return p, fmt.Errorf("a value is empty, or not percent-encoded")
		}
		p.items = append(p.items, plain)
	}
	switch name {
	case "subject":
		if len(p.items)%2 != 0 {
			return p, errors.New("subject takes pairs of key and value")
		}
		seen := map[string]bool{}
		for i := 0; i < len(p.items); i += 2 {
			oid, ok := attributes[p.items[i]]
			if !ok && dottedOID.MatchString(p.items[i]) {
				oid, ok = p.items[i], true
			}
			if !ok {
				return p, fmt.Errorf("subject key %s is unknown", quote(p.items[i]))
			}
			if seen[oid] {
				return p, fmt.Errorf("subject key %s is there twice", quote(p.items[i]))
			}
			seen[oid] = true
			p.items[i] = oid
		}
	case "san":
		if len(p.items) != 2 {
			return p, errors.New("san takes one type and one value")
		}
		if sanTypes[p.items[0]] == 0 {
			return p, fmt.Errorf("san type %s is none of email, dns, uri", quote(p.items[0]))
		}
	case "eku":
		if len(p.items) != 1 || !dottedOID.MatchString(p.items[0]) {
			return p, errors.New("eku takes one OID")
		}
	case "fulcio-issuer":
		if len(p.items) != 1 {
			return p, errors.New("fulcio-issuer takes one value")
		}
	default:
		return p, fmt.Errorf("predicate %s is none of subject, san, eku, fulcio-issuer", quote(name))
	}
	return p, nil
}

// Match says whether a chain, leaf first, is one that the DID means. That it is a
// valid path is the caller's to check, and so is whether the leaf's key may sign.
// Its last certificate need not be trusted: the DID names one above the leaf by
// its fingerprint.
//
// SPEC did:x509, DID Resolution.
func (d *X509) Match(chain []*x509.Certificate) error {
	if !slices.ContainsFunc(chain[1:], func(c *x509.Certificate) bool {
		h := d.hash.New()
		h.Write(c.Raw)
		return slices.Equal(h.Sum(nil), d.fingerprint)
	}) {
		return noMatch("no CA of the chain has the fingerprint")
	}
	leaf := chain[0]
	if u := leaf.KeyUsage; u != 0 && u&(x509.KeyUsageDigitalSignature|x509.KeyUsageKeyAgreement) == 0 {
		return noMatch("the key usage of the leaf allows neither signatures nor key agreement")
	}
	m, err := modelOf(leaf)
	if err != nil {
		return err
	}
	for _, p := range d.predicates {
		if err := m.meets(p); err != nil {
			return err
		}
	}
	return nil
}

// model is what predicates can ask of a leaf: the JSON model of the specification.
type model struct {
	subject      map[string]string // by OID
	names        [][2]string       // type, value
	usages       []string          // OIDs
	fulcioIssuer string
}

var (
	oidSAN          = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidEKU          = asn1.ObjectIdentifier{2, 5, 29, 37}
	oidFulcioIssuer = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 1}
)

func modelOf(leaf *x509.Certificate) (*model, error) {
	m := &model{subject: map[string]string{}}
	for _, a := range leaf.Subject.Names {
		oid := a.Type.String()
		// SPEC did:x509, Certificate Chain JSON Model: repeated attributes are not
		// supported.
		if _, twice := m.subject[oid]; twice {
			return nil, noMatch("the leaf's subject has the attribute %s twice", oid)
		}
		if value, ok := a.Value.(string); ok {
			m.subject[oid] = value
		}
	}
	for _, e := range leaf.Extensions {
		switch {
		case e.Id.Equal(oidSAN):
			if err := m.readNames(e.Value); err != nil {
				return nil, err
			}
		case e.Id.Equal(oidEKU):
			var oids []asn1.ObjectIdentifier
			if _, err := asn1.Unmarshal(e.Value, &oids); err != nil {
				return nil, malformed("extended key usages of the leaf")
			}
			for _, oid := range oids {
				m.usages = append(m.usages, oid.String())
			}
		case e.Id.Equal(oidFulcioIssuer):
			// The old extension holds the text itself, without a tag.
			m.fulcioIssuer = string(e.Value)
		}
	}
	return m, nil
}

func (m *model) readNames(extension []byte) error {
	var list asn1.RawValue
	if _, err := asn1.Unmarshal(extension, &list); err != nil {
		return malformed("subject alternative names of the leaf")
	}
	for rest := list.Bytes; len(rest) > 0; {
		var name asn1.RawValue
		var err error
		if rest, err = asn1.Unmarshal(rest, &name); err != nil {
			return malformed("subject alternative names of the leaf")
		}
		const directoryName = 4
		known := name.Tag == directoryName
		for kind, tag := range sanTypes {
			if name.Tag == tag {
				m.names = append(m.names, [2]string{kind, string(name.Bytes)})
				known = true
			}
		}
		if !known || name.Class != asn1.ClassContextSpecific {
			return noMatch("the leaf has a subject alternative name of a type that a did:x509 does not support")
		}
	}
	return nil
}

func (m *model) meets(p predicate) error {
	switch p.name {
	case "subject":
		for i := 0; i < len(p.items); i += 2 {
			if got, ok := m.subject[p.items[i]]; !ok || got != p.items[i+1] {
				return noMatch("the leaf's subject has %s as %s, not %s", quote(got), p.items[i], quote(p.items[i+1]))
			}
		}
	case "san":
		if !slices.Contains(m.names, [2]string{p.items[0], p.items[1]}) {
			return noMatch("the leaf has no subject alternative name %s %s", p.items[0], quote(p.items[1]))
		}
	case "eku":
		if !slices.Contains(m.usages, p.items[0]) {
			return noMatch("the leaf has no extended key usage %s", p.items[0])
		}
	case "fulcio-issuer":
		if m.fulcioIssuer != "https://"+p.items[0] {
			return noMatch("the leaf's Fulcio issuer is %s, not %s", quote(m.fulcioIssuer), quote("https://"+p.items[0]))
		}
	}
	return nil
}
