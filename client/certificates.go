package client

import (
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// authority is a TrustedIssuer's roots made ready: who may certify, and what a
// leaf must carry to speak as the issuer. It holds a chain to what a service's
// policy asks of it by default, so that an auditor comes to the same verdict.
type authority struct {
	roots *x509.CertPool
	name  altName
	usage usage
}

// usage is an extended key usage: one that crypto/x509 knows, or any OID.
type usage struct {
	name  string
	known x509.ExtKeyUsage
	oid   string
}

var usages = []usage{
	{"codeSigning", x509.ExtKeyUsageCodeSigning, "1.3.6.1.5.5.7.3.3"},
	{"emailProtection", x509.ExtKeyUsageEmailProtection, "1.3.6.1.5.5.7.3.4"},
	{"timeStamping", x509.ExtKeyUsageTimeStamping, "1.3.6.1.5.5.7.3.8"},
	{"clientAuth", x509.ExtKeyUsageClientAuth, "1.3.6.1.5.5.7.3.2"},
	{"serverAuth", x509.ExtKeyUsageServerAuth, "1.3.6.1.5.5.7.3.1"},
	{"OCSPSigning", x509.ExtKeyUsageOCSPSigning, "1.3.6.1.5.5.7.3.9"},
}

// namedBy: the leaf lists the usage itself; silence and anyExtendedKeyUsage are
// not enough for a certificate that signs claims.
func (u usage) namedBy(leaf *x509.Certificate) bool {
	return u.known != x509.ExtKeyUsageAny && slices.Contains(leaf.ExtKeyUsage, u.known) ||
		slices.ContainsFunc(leaf.UnknownExtKeyUsage, func(oid asn1.ObjectIdentifier) bool { return oid.String() == u.oid })
}

func parseUsage(text string) (usage, error) {
	if text == "" {
		return usages[0], nil
	}
	for _, u := range usages {
		if text == u.name || text == u.oid {
			return u, nil
		}
	}
	if _, err := x509.ParseOID(text); err != nil {
		return usage{}, fmt.Errorf("extended key usage %q: want codeSigning, emailProtection, timeStamping, clientAuth, serverAuth, OCSPSigning or an OID", text)
	}
	return usage{text, x509.ExtKeyUsageAny, text}, nil
}

func (i TrustedIssuer) authority() (*authority, error) {
	a := &authority{roots: x509.NewCertPool(), name: altName{tagURI, i.Issuer}}
	found := false
	for block, rest := pem.Decode([]byte(i.Roots)); block != nil; block, rest = pem.Decode(rest) {
		root, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("roots of %q: %w", i.Issuer, err)
		}
		a.roots.AddCert(root)
		found = true
	}
	if !found {
		return nil, fmt.Errorf("roots of %q: there is no certificate", i.Issuer)
	}
	if i.SAN != "" {
		a.name = parseAltName(i.SAN)
	}
	var err error
	if a.usage, err = parseUsage(i.EKU); err != nil {
		return nil, fmt.Errorf("issuer %q: %w", i.Issuer, err)
	}
	return a, nil
}

// vouch is nil when the chain, leaf first, leads to a root, is valid at that
// time (RFC 5280 §6), and its leaf may speak as the issuer.
func (a *authority) vouch(chain [][]byte, at time.Time) error {
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return fmt.Errorf("leaf certificate: %w", err)
	}
	switch {
	case leaf.IsCA:
		return errors.New("the leaf is a CA certificate")
	case leaf.KeyUsage != 0 && leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return errors.New("the leaf's key usage does not allow signatures")
	case !a.usage.namedBy(leaf):
		return fmt.Errorf("the leaf does not list the extended key usage %s", a.usage.name)
	case !slices.Contains(altNames(leaf), a.name):
		return fmt.Errorf("the leaf's subject alternative names do not include %q", a.name.value)
	}
	intermediates := x509.NewCertPool()
	for i, der := range chain[1:] {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return fmt.Errorf("certificate %d of the chain: %w", i+1, err)
		}
		intermediates.AddCert(c)
	}
	_, err = leaf.Verify(x509.VerifyOptions{Roots: a.roots, Intermediates: intermediates,
		CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{a.usage.known}})
	return err
}

// altName is a subject alternative name as it stands in the certificate:
// parsing and printing a URI again would make different names equal.
type altName struct {
	tag   int
	value string
}

// Tags of GeneralName that can name an issuer (RFC 5280 §4.2.1.6).
const (
	tagEmail = 1
	tagDNS   = 2
	tagURI   = 6
)

func parseAltName(text string) altName {
	switch {
	case strings.Contains(text, ":"):
		return altName{tagURI, text}
	case strings.Contains(text, "@"):
		return altName{tagEmail, text}
	}
	return altName{tagDNS, text}
}

// altNames reads the names of c, whose encoding crypto/x509 has checked.
func altNames(c *x509.Certificate) []altName {
	var names []altName
	for _, e := range c.Extensions {
		var list asn1.RawValue
		if _, err := asn1.Unmarshal(e.Value, &list); !e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 17}) || err != nil {
			continue
		}
		for rest := list.Bytes; len(rest) > 0; {
			var name asn1.RawValue
			var err error
			if rest, err = asn1.Unmarshal(rest, &name); err != nil {
				return nil
			}
			if name.Class == asn1.ClassContextSpecific {
				names = append(names, altName{name.Tag, string(name.Bytes)})
			}
		}
	}
	return names
}
