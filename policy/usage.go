package policy

import (
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"slices"
	"strings"
)

// usage is an extended key usage: one that crypto/x509 has a name for, or an OID.
type usage struct {
	name  string
	known x509.ExtKeyUsage
	oid   asn1.ObjectIdentifier
}

var usages = []usage{
	{name: "codeSigning", known: x509.ExtKeyUsageCodeSigning, oid: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 3}},
	{name: "emailProtection", known: x509.ExtKeyUsageEmailProtection, oid: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 4}},
	{name: "timeStamping", known: x509.ExtKeyUsageTimeStamping, oid: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 8}},
	{name: "clientAuth", known: x509.ExtKeyUsageClientAuth, oid: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 2}},
	{name: "serverAuth", known: x509.ExtKeyUsageServerAuth, oid: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 1}},
	{name: "OCSPSigning", known: x509.ExtKeyUsageOCSPSigning, oid: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 9}},
}

// anyUsage is that of a leaf that need not list one, as with SPIFFE.
var anyUsage = usage{name: "none", known: x509.ExtKeyUsageAny}

// parseOID reads dotted decimals.
func parseOID(s string) (asn1.ObjectIdentifier, bool) {
	var oid asn1.ObjectIdentifier
	for part := range strings.SplitSeq(s, ".") {
		n := 0
		if _, err := fmt.Sscanf(part, "%d", &n); err != nil || n < 0 || fmt.Sprint(n) != part {
			return nil, false
		}
		oid = append(oid, n)
	}
	return oid, len(oid) >= 2 && oid[0] <= 2
}

func parseUsage(s string) (usage, error) {
	switch s {
	case "":
		return usages[0], nil
	case anyUsage.name:
		return anyUsage, nil
	}
	for _, u := range usages {
		if s == u.name || s == u.oid.String() {
			return u, nil
		}
	}
	oid, ok := parseOID(s)
	if !ok {
		return usage{}, fmt.Errorf("%s; want codeSigning, emailProtection, timeStamping, clientAuth, serverAuth, OCSPSigning, an OID, or none", quote(s))
	}
	return usage{name: s, oid: oid}, nil
}

// named reports whether c lists the usage itself: silence and anyExtendedKeyUsage
// are enough for a CA, but not for the leaf that signs.
func (u usage) named(c *x509.Certificate) bool {
	return u.name == anyUsage.name || u.known != x509.ExtKeyUsageAny && slices.Contains(c.ExtKeyUsage, u.known) ||
		slices.ContainsFunc(c.UnknownExtKeyUsage, u.oid.Equal)
}

func (u usage) permitted(ca *x509.Certificate) bool {
	return len(ca.ExtKeyUsage)+len(ca.UnknownExtKeyUsage) == 0 || slices.Contains(ca.ExtKeyUsage, x509.ExtKeyUsageAny) || u.named(ca)
}
