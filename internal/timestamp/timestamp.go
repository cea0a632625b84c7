// Package timestamp verifies RFC 3161 time-stamp tokens: that an authority which
// the caller trusts has seen some bytes, and when.
//
// Verify promises of a token it accepts:
//
//   - its imprint is the SHA-256, SHA-384 or SHA-512 of the message;
//   - the one signature in it covers the imprint and the time, and was made with
//     the certificate that the signed attributes name (RFC 5816);
//   - that certificate is for time stamping and nothing else, and led to the
//     authority at the time the token states;
//   - the caller trusted the authority at that time.
//
// A token is a stranger's bytes: it is read as DER and nothing laxer, at most
// MaxSize of it, and nothing in it can panic. The usual library reads BER with a
// global counter that concurrent calls race for, verifies no certificate at all
// when the token carries none, and leaves path, usage and content type to its
// caller. So the two dozen fields that matter are read here, and that library is
// the tests' authority and second opinion.
//
// Nonce, ordering, accuracy and the name an authority gives itself play no part:
// they are for who asked for the token. Whether a certificate has been revoked
// since is not looked at. The package knows no network, no clock and no policy.
package timestamp

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/scittd/scittd/internal/cose"
)

// MaxSize bounds a token, and the response that carries it.
const MaxSize = 64 << 10

// maxCertificates bounds what a token may carry beside its signature.
const maxCertificates = 16

// Authority is a time-stamping authority and when its word counts.
type Authority struct {
	// Chain ends with the certificate that is trusted. The first is whose word
	// counts: when it is no CA, it alone may sign; else whom it leads to.
	Chain    []*x509.Certificate
	From, To time.Time // both ends included; zero is open
}

// Verify returns the time at which one of the authorities had seen message. An
// error says what is wrong with the token or, where several authorities are
// listed, why the first of them does not stand behind it.
func Verify(token, message []byte, authorities []Authority) (time.Time, error) {
	at, err := verify(token, message, authorities)
	if err != nil {
		return time.Time{}, fmt.Errorf("time-stamp token: %w", err)
	}
	return at, nil
}

func verify(token, message []byte, authorities []Authority) (time.Time, error) {
	t, err := parse(token)
	if err != nil {
		return time.Time{}, err
	}
	if !bytes.Equal(t.imprint, sum(t.imprintHash, message)) {
		return time.Time{}, errors.New("it is for other bytes")
	}
	err = errors.New("no authority is listed")
	for i, a := range authorities {
		reason := a.vouches(t)
		if reason == nil {
			return t.time.UTC(), nil
		}
		if i == 0 {
			err = reason
		}
	}
	return time.Time{}, err
}

// vouches checks that t was signed under a.
func (a Authority) vouches(t *token) error {
	if len(a.Chain) == 0 {
		return errors.New("the authority has no certificate")
	}
	if !a.From.IsZero() && t.time.Before(a.From) || !a.To.IsZero() && t.time.After(a.To) {
		return fmt.Errorf("the authority is not trusted at %s", stamp(t.time))
	}
	signer, err := t.signer(a.Chain)
	if err != nil {
		return err
	}
	if first := a.Chain[0]; !first.IsCA && !first.Equal(signer) {
		return errors.New("it was not signed with the certificate of the authority")
	}
	if err := checkSigner(signer); err != nil {
		return err
	}
	if err := a.leads(signer, t); err != nil {
		return err
	}
	if err := signer.CheckSignature(t.algorithm, t.signed, t.signature); err != nil {
		return errors.New("its signature does not verify")
	}
	return nil
}

// leads builds the path from signer to the authority, at the time of the token.
func (a Authority) leads(signer *x509.Certificate, t *token) error {
	last := len(a.Chain) - 1
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(a.Chain[last])
	// One of a name: among namesakes crypto/x509 would search, a hundred signatures
	// long, and the certificates in a token are a stranger's.
	named := map[string]bool{}
	for i, c := range slices.Concat(a.Chain[:last], t.certificates) {
		name := string(c.RawSubject)
		// A root that is sent leads nowhere, and must not hide its cross-certificate.
		if i < last || !named[name] && name != string(c.RawIssuer) {
			named[name] = true
			between.AddCert(c)
		}
	}
	paths, err := signer.Verify(x509.VerifyOptions{
		Roots:         roots,
		Intermediates: between,
		CurrentTime:   t.time, // never zero: that would mean now, and parse refuses it
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageTimeStamping},
	})
	var invalid x509.CertificateInvalidError
	switch {
	// Others may have the same root, and have ended: their certificates may come
	// with the token.
	case err == nil && !slices.ContainsFunc(paths, func(path []*x509.Certificate) bool { return slices.ContainsFunc(path, a.Chain[0].Equal) }):
		return errors.New("its certificate leads to the root of the authority, but not by way of the authority")
	case err == nil:
		return nil
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Errorf("a certificate of it was valid from %s to %s, and it is of %s",
			stamp(invalid.Cert.NotBefore), stamp(invalid.Cert.NotAfter), stamp(t.time))
	default:
		return fmt.Errorf("its certificate does not lead to the authority: %w", err)
	}
}

var extKeyUsage = asn1.ObjectIdentifier{2, 5, 29, 37}

// checkSigner: SPEC RFC 3161 §2.3: the certificate MUST have one extended key
// usage, critical, and it MUST be id-kp-timeStamping.
func checkSigner(c *x509.Certificate) error {
	if !slices.Equal(c.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageTimeStamping}) || len(c.UnknownExtKeyUsage) > 0 {
		return errors.New("it was signed with a certificate that is not for time stamping alone")
	}
	for _, e := range c.Extensions {
		if e.Id.Equal(extKeyUsage) && !e.Critical {
			return errors.New("the extended key usage of its certificate is not critical")
		}
	}
	if c.KeyUsage != 0 && c.KeyUsage&(x509.KeyUsageDigitalSignature|x509.KeyUsageContentCommitment) == 0 {
		return errors.New("the key usage of its certificate does not allow signatures")
	}
	if err := cose.CheckKey(c.PublicKey); err != nil {
		return fmt.Errorf("certificate: %w", err)
	}
	return nil
}

func sum(h crypto.Hash, b []byte) []byte {
	d := h.New()
	d.Write(b)
	return d.Sum(nil)
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
