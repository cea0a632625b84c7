package policy

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"strings"

	"github.com/scittd/scittd/internal/cose"
)

// Denied is a certificate that is not believed whatever is signed by it: the
// leaf, or one that stands above it. Exactly one of the three ways to name it.
type Denied struct {
	Serial      string `json:"serial,omitempty" yaml:"serial"`           // hex; with
	Issuer      string `json:"issuer,omitempty" yaml:"issuer"`           // the name of who issued it, as refusals write it (RFC 2253)
	Certificate string `json:"certificate,omitempty" yaml:"certificate"` // its SHA-256, hex
	Key         string `json:"key,omitempty" yaml:"key"`                 // SHA-256 of its SubjectPublicKeyInfo, or RFC 9679 thumbprint, hex
}

// denied is a Denied made ready.
type denied struct {
	serial      *big.Int
	issuer      string
	certificate []byte
	key         []byte
}

func newDenied(doc Denied) (d denied, err error) {
	switch (Denied{doc.Serial, doc.Issuer, doc.Certificate, doc.Key}) {
	case Denied{Serial: doc.Serial, Issuer: doc.Issuer}:
		digits := strings.ReplaceAll(doc.Serial, ":", "")
		var ok bool
		if d.serial, ok = new(big.Int).SetString(digits, 16); !ok || d.serial.Sign() <= 0 || len(digits) > 2*20 {
			return d, fmt.Errorf("serial %s; want at most 20 bytes in hex", quote(doc.Serial))
		}
		if d.issuer = doc.Issuer; !printable(d.issuer) {
			return d, errors.New("a serial number says nothing without the name of its issuer")
		}
	case Denied{Certificate: doc.Certificate}:
		d.certificate, err = parseSum(doc.Certificate)
	case Denied{Key: doc.Key}:
		d.key, err = parseSum(doc.Key)
	default:
		err = errors.New("want serial and issuer, or certificate, or key")
	}
	return d, err
}

func parseSum(s string) ([]byte, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != sha256.Size {
		return nil, fmt.Errorf("%s is not a SHA-256 in hex", quote(s))
	}
	return b, nil
}

func (d denied) is(c *x509.Certificate) bool {
	switch {
	case d.serial != nil:
		return c.SerialNumber.Cmp(d.serial) == 0 && c.Issuer.String() == d.issuer
	case d.certificate != nil:
		sum := sha256.Sum256(c.Raw)
		return bytes.Equal(sum[:], d.certificate)
	}
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	thumbprint, err := cose.Thumbprint(c.PublicKey)
	return bytes.Equal(sum[:], d.key) || err == nil && bytes.Equal(thumbprint[:], d.key)
}
