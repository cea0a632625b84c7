package policy

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"maps"
	"slices"
)

// attributeTypes are the short names of what a subject consists of (RFC 4519 §2).
var attributeTypes = map[string]asn1.ObjectIdentifier{
	"CN":           {2, 5, 4, 3},
	"serialNumber": {2, 5, 4, 5},
	"C":            {2, 5, 4, 6},
	"L":            {2, 5, 4, 7},
	"ST":           {2, 5, 4, 8},
	"STREET":       {2, 5, 4, 9},
	"O":            {2, 5, 4, 10},
	"OU":           {2, 5, 4, 11},
}

// attribute is one that a subject must have.
type attribute struct {
	name  string
	oid   asn1.ObjectIdentifier
	value string
}

// newAttributes reads `subject`, in the order of its names.
func newAttributes(doc map[string]string) ([]attribute, error) {
	var all []attribute
	for _, name := range slices.Sorted(maps.Keys(doc)) {
		oid, ok := attributeTypes[name]
		if !ok {
			oid, ok = parseOID(name)
		}
		switch {
		case !ok:
			return nil, fmt.Errorf("%s; want CN, O, OU, C, L, ST, STREET, serialNumber or an OID", quote(name))
		case !printable(doc[name]):
			return nil, fmt.Errorf("%s: %s is not printable text", name, quote(doc[name]))
		case slices.ContainsFunc(all, func(a attribute) bool { return a.oid.Equal(oid) }):
			return nil, fmt.Errorf("%s is there under another name, too", name)
		}
		all = append(all, attribute{name, oid, doc[name]})
	}
	return all, nil
}

// in says whether c's subject has a once, and with that very value: of two
// values nobody can say which one was meant.
func (a attribute) in(c *x509.Certificate) bool {
	had := slices.DeleteFunc(slices.Clone(c.Subject.Names), func(n pkix.AttributeTypeAndValue) bool { return !n.Type.Equal(a.oid) })
	return len(had) == 1 && had[0].Value == a.value
}
