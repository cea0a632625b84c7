package policy

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"
)

// CRL is a certificate revocation list (RFC 5280 §5); its text is the base64 of
// its DER.
type CRL struct{ *x509.RevocationList }

func (c CRL) MarshalText() ([]byte, error) {
	if c.RevocationList == nil {
		return nil, errors.New("no revocation list")
	}
	return encode64(c.Raw), nil
}

func (c *CRL) UnmarshalText(text []byte) error {
	b, err := decode64(text)
	if err != nil {
		return err
	}
	c.RevocationList, err = x509.ParseRevocationList(b)
	return err
}

// What is done when a CRL is past its next update.
const (
	RefuseExpired = "refuse" // whom it would be about
	AllowExpired  = "allow"  // who is not on it
)

// revocations is a CRL made ready: what one CA has taken back.
type revocations struct {
	ca      *x509.Certificate
	part    []byte // issuing distribution point; nil: all that ca issued
	next    time.Time
	serials map[string]x509.RevocationListEntry
}

var (
	oidDelta       = asn1.ObjectIdentifier{2, 5, 29, 27}
	oidPart        = asn1.ObjectIdentifier{2, 5, 29, 28}
	oidEntryIssuer = asn1.ObjectIdentifier{2, 5, 29, 29}
	oidReason      = asn1.ObjectIdentifier{2, 5, 29, 21}
	oidInvalidity  = asn1.ObjectIdentifier{2, 5, 29, 24}
	oidAuthority   = asn1.ObjectIdentifier{2, 5, 29, 35}
	oidNumber      = asn1.ObjectIdentifier{2, 5, 29, 20}
)

// issuingDistributionPoint is RFC 5280 §5.2.5.
type issuingDistributionPoint struct {
	Name       asn1.RawValue  `asn1:"optional,tag:0"`
	Users      bool           `asn1:"optional,tag:1"`
	CAs        bool           `asn1:"optional,tag:2"`
	Reasons    asn1.BitString `asn1:"optional,tag:3"`
	Indirect   bool           `asn1:"optional,tag:4"`
	Attributes bool           `asn1:"optional,tag:5"`
}

// newRevocations checks a list, and that one of the listed CAs has signed it.
func newRevocations(doc CRL, among *anchors) (*revocations, error) {
	l := doc.RevocationList
	if l == nil {
		return nil, errors.New("missing")
	}
	r := &revocations{next: l.NextUpdate.UTC(), serials: map[string]x509.RevocationListEntry{}}
	// SPEC RFC 5280 §5.1.2.5: conforming lists MUST say when the next one comes.
	if l.NextUpdate.IsZero() {
		return nil, errors.New("it does not say when its next update is")
	}
	for _, e := range l.Extensions {
		switch {
		case e.Id.Equal(oidDelta):
			return nil, errors.New("it is a delta, which says nothing by itself; list the complete one")
		case e.Id.Equal(oidPart):
			var p issuingDistributionPoint
			if rest, err := asn1.Unmarshal(e.Value, &p); err != nil || len(rest) > 0 {
				return nil, errors.New("its issuing distribution point cannot be read")
			}
			if p.Indirect || p.Attributes {
				return nil, errors.New("it is indirect or about attribute certificates; list those that a CA issues about its own certificates")
			}
			r.part = e.Value
		// SPEC RFC 5280 §5.2: with a critical extension that is not understood, a
		// list MUST NOT be used to determine the status of certificates.
		case e.Critical && !e.Id.Equal(oidAuthority) && !e.Id.Equal(oidNumber):
			return nil, fmt.Errorf("its critical extension %s is not known here", e.Id)
		}
	}
	for _, e := range l.RevokedCertificateEntries {
		if err := checkEntry(e); err != nil {
			return nil, err
		}
		r.serials[string(e.SerialNumber.Bytes())] = e
	}
	var err error
	r.ca, err = signerOf(l, among)
	return r, err
}

func checkEntry(e x509.RevocationListEntry) error {
	const removeFromCRL = 8
	if e.ReasonCode == removeFromCRL {
		return fmt.Errorf("its entry for %x is a removal, which belongs into a delta", e.SerialNumber)
	}
	for _, x := range e.Extensions {
		switch {
		case x.Id.Equal(oidEntryIssuer):
			return fmt.Errorf("its entry for %x is about a certificate of somebody else", e.SerialNumber)
		case x.Critical && !x.Id.Equal(oidReason) && !x.Id.Equal(oidInvalidity):
			return fmt.Errorf("its entry for %x has the critical extension %s, which is not known here", e.SerialNumber, x.Id)
		}
	}
	return nil
}

// signerOf finds the listed CA whose list l is.
func signerOf(l *x509.RevocationList, among *anchors) (*x509.Certificate, error) {
	listed := slices.Clone(among.between)
	for _, r := range among.roots {
		listed = append(listed, r.Certificate)
	}
	err := fmt.Errorf("no listed CA is %s, who issued it; list that CA among roots or intermediates", quote(l.Issuer.String()))
	for _, ca := range listed {
		if !bytes.Equal(ca.RawSubject, l.RawIssuer) {
			continue
		}
		if reason := l.CheckSignatureFrom(ca); reason == nil {
			return ca, nil
		} else {
			err = fmt.Errorf("it was not signed by %s: %w", quote(ca.Subject.String()), reason)
		}
	}
	return nil, err
}

// sameSource: of two lists with the same about-ness, only the newer one counts.
func (r *revocations) sameSource(other *revocations) bool {
	return sameCA(r.ca, other.ca) && bytes.Equal(r.part, other.part)
}

// of finds c on the list, if the CA of the list is the one that issued it.
func (r *revocations) of(c, issuer *x509.Certificate) (x509.RevocationListEntry, bool) {
	e, ok := r.serials[string(c.SerialNumber.Bytes())]
	return e, ok && sameCA(r.ca, issuer) && e.SerialNumber.Cmp(c.SerialNumber) == 0
}

// reasons are those of RFC 5280 §5.3.1.
var reasons = map[int]string{
	0: "unspecified", 1: "keyCompromise", 2: "cACompromise", 3: "affiliationChanged", 4: "superseded",
	5: "cessationOfOperation", 6: "certificateHold", 9: "privilegeWithdrawn", 10: "aACompromise",
}

func reason(code int) string {
	if name, ok := reasons[code]; ok {
		return name
	}
	return fmt.Sprintf("reason %d", code)
}

func serialNumber(n *big.Int) string { return fmt.Sprintf("%x", n) }
