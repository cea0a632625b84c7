package timestamp

import (
	"bytes"
	"crypto"
	_ "crypto/sha1" // an ESSCertID is always one; it selects among certificates, and signs nothing
	_ "crypto/sha256"
	_ "crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/scittd/scittd/internal/cose"
)

// token is what a TimeStampToken says, before anybody is believed.
type token struct {
	imprint      []byte
	imprintHash  crypto.Hash
	time         time.Time
	certificates []*x509.Certificate // that came with it
	identifier   asn1.RawValue       // SignerIdentifier
	certHash     []byte              // of the signer's certificate, signed
	certHashFunc crypto.Hash
	algorithm    x509.SignatureAlgorithm
	signed       []byte // what the signature is over: the attributes as a SET
	signature    []byte
}

// The structures of RFC 5652 §5 (CMS SignedData) and RFC 3161 §2.4.2, as far as
// they are needed.
type (
	contentInfo struct {
		Type    asn1.ObjectIdentifier
		Content asn1.RawValue `asn1:"explicit,tag:0"`
	}
	signedData struct {
		Version      int
		Digests      []pkix.AlgorithmIdentifier `asn1:"set"`
		Content      encapsulated
		Certificates asn1.RawValue `asn1:"optional,tag:0"`
		CRLs         asn1.RawValue `asn1:"optional,tag:1"`
		Signers      []signerInfo  `asn1:"set"`
	}
	encapsulated struct {
		Type    asn1.ObjectIdentifier
		Content []byte `asn1:"explicit,optional,tag:0"`
	}
	signerInfo struct {
		Version    int
		Identifier asn1.RawValue
		Digest     pkix.AlgorithmIdentifier
		Signed     asn1.RawValue `asn1:"optional,tag:0"`
		Algorithm  pkix.AlgorithmIdentifier
		Signature  []byte
		Unsigned   asn1.RawValue `asn1:"optional,tag:1"`
	}
	attribute struct {
		Type   asn1.ObjectIdentifier
		Values []asn1.RawValue `asn1:"set"`
	}
	issuerAndSerial struct {
		Issuer asn1.RawValue
		Serial *big.Int
	}
	tstInfo struct {
		Version int
		Policy  asn1.ObjectIdentifier
		Imprint struct {
			Algorithm pkix.AlgorithmIdentifier
			Sum       []byte
		}
		Serial     *big.Int
		Time       time.Time        `asn1:"generalized"`
		Accuracy   accuracy         `asn1:"optional"`
		Ordering   bool             `asn1:"optional"`
		Nonce      *big.Int         `asn1:"optional"`
		Authority  asn1.RawValue    `asn1:"optional,tag:0"`
		Extensions []pkix.Extension `asn1:"optional,tag:1"`
	}
	accuracy struct {
		Seconds int64 `asn1:"optional"`
		Milli   int64 `asn1:"optional,tag:0"`
		Micro   int64 `asn1:"optional,tag:1"`
	}
	certID struct { // ESSCertIDv2; an ESSCertID has no algorithm
		Algorithm pkix.AlgorithmIdentifier `asn1:"optional"`
		Hash      []byte
	}
	certIDs struct{ Certs []certID }
)

var (
	oidSignedData    = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
	oidTSTInfo       = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 1, 4}
	oidContentType   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 3}
	oidMessageDigest = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 4}
	oidCertificate   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 2, 12} // ESSCertID
	oidCertificateV2 = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 2, 47} // ESSCertIDv2
)

var hashes = []struct {
	oid  asn1.ObjectIdentifier
	hash crypto.Hash
}{
	{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}, crypto.SHA256},
	{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 2}, crypto.SHA384},
	{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 3}, crypto.SHA512},
}

func hashOf(oid asn1.ObjectIdentifier) (crypto.Hash, error) {
	for _, h := range hashes {
		if h.oid.Equal(oid) {
			return h.hash, nil
		}
	}
	return 0, fmt.Errorf("hash algorithm %s; want SHA-256, SHA-384 or SHA-512", oid)
}

// signatures by OID. A hash of zero fits any digest: rsaEncryption names none,
// and Ed25519 hashes by itself.
var signatures = []struct {
	oid       asn1.ObjectIdentifier
	hash      crypto.Hash
	algorithm x509.SignatureAlgorithm
}{
	{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}, crypto.SHA256, x509.SHA256WithRSA},
	{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 12}, crypto.SHA384, x509.SHA384WithRSA},
	{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 13}, crypto.SHA512, x509.SHA512WithRSA},
	{asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}, crypto.SHA256, x509.ECDSAWithSHA256},
	{asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 3}, crypto.SHA384, x509.ECDSAWithSHA384},
	{asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 4}, crypto.SHA512, x509.ECDSAWithSHA512},
	{asn1.ObjectIdentifier{1, 3, 101, 112}, 0, x509.PureEd25519},
}

var oidRSA = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}

func algorithmOf(oid asn1.ObjectIdentifier, digest crypto.Hash) (x509.SignatureAlgorithm, error) {
	for _, s := range signatures {
		named := s.oid.Equal(oid) || oid.Equal(oidRSA) && s.hash == digest // RSA stands first
		if named && (s.hash == 0 || s.hash == digest) {
			return s.algorithm, nil
		}
	}
	return 0, fmt.Errorf("signature algorithm %s does not go with its digest", oid)
}

// whole reads one DER value that fills b.
func whole(b []byte, into any, params string) error {
	rest, err := asn1.UnmarshalWithParams(b, into, params)
	if err == nil && len(rest) > 0 {
		err = errors.New("trailing bytes")
	}
	return err
}

func parse(b []byte) (*token, error) {
	if len(b) > MaxSize {
		return nil, fmt.Errorf("it has %d bytes, more than %d", len(b), MaxSize)
	}
	var info contentInfo
	if err := whole(b, &info, ""); err != nil {
		return nil, fmt.Errorf("not DER: %w", err)
	}
	if !info.Type.Equal(oidSignedData) {
		return nil, fmt.Errorf("content type %s is no SignedData", info.Type)
	}
	var data signedData
	if err := whole(info.Content.Bytes, &data, ""); err != nil {
		return nil, fmt.Errorf("SignedData: %w", err)
	}
	switch {
	case !data.Content.Type.Equal(oidTSTInfo):
		return nil, fmt.Errorf("what is signed, %s, is no TSTInfo", data.Content.Type)
	// SPEC RFC 3161 §2.4.2: a token MUST NOT contain any signature but that of the TSA.
	case len(data.Signers) != 1:
		return nil, fmt.Errorf("it has %d signatures, want one", len(data.Signers))
	}
	t := &token{}
	if err := t.parseInfo(data.Content.Content); err != nil {
		return nil, fmt.Errorf("TSTInfo: %w", err)
	}
	if err := t.parseSigner(data.Signers[0], data.Content.Content); err != nil {
		return nil, err
	}
	return t, t.parseCertificates(data.Certificates.Bytes)
}

// parseInfo reads what was seen, and when.
func (t *token) parseInfo(b []byte) (err error) {
	var info tstInfo
	if err := whole(b, &info, ""); err != nil {
		return err
	}
	if info.Version != 1 {
		return fmt.Errorf("version %d, want 1", info.Version)
	}
	for _, e := range info.Extensions {
		if e.Critical {
			return fmt.Errorf("critical extension %s is not known here", e.Id)
		}
	}
	if t.imprintHash, err = hashOf(info.Imprint.Algorithm.Algorithm); err != nil {
		return err
	}
	// To crypto/x509 the zero time means now.
	if t.imprint, t.time = info.Imprint.Sum, info.Time; t.time.IsZero() {
		return errors.New("no time")
	}
	return nil
}

// parseSigner reads who signed content and what exactly. What is not among the
// signed attributes is a stranger's hint.
func (t *token) parseSigner(s signerInfo, content []byte) error {
	digest, err := hashOf(s.Digest.Algorithm)
	if err != nil {
		return err
	}
	if t.algorithm, err = algorithmOf(s.Algorithm.Algorithm, digest); err != nil {
		return err
	}
	// SPEC RFC 5652 §5.3, §5.4: attributes MUST be there when the content is not
	// id-data; they travel as [0] and are signed as the SET they are.
	if len(s.Signed.FullBytes) == 0 {
		return errors.New("it has no signed attributes")
	}
	t.signed = bytes.Clone(s.Signed.FullBytes)
	t.signed[0] = asn1.TagSet | 0x20
	var list []attribute
	if err := whole(t.signed, &list, "set"); err != nil {
		return fmt.Errorf("signed attributes: %w", err)
	}
	attributes := map[string][]byte{}
	for _, a := range list {
		// SPEC RFC 5652 §5.3: each MUST be there once; those used here MUST have one value.
		name := a.Type.String()
		if _, twice := attributes[name]; twice || len(a.Values) != 1 {
			return fmt.Errorf("signed attribute %s: not exactly one value", name)
		}
		attributes[name] = a.Values[0].FullBytes
	}
	var kind asn1.ObjectIdentifier
	if err := whole(attributes[oidContentType.String()], &kind, ""); err != nil || !kind.Equal(oidTSTInfo) {
		return errors.New("its signature does not say that a TSTInfo was signed")
	}
	var sealed []byte
	if err := whole(attributes[oidMessageDigest.String()], &sealed, ""); err != nil || !bytes.Equal(sealed, sum(digest, content)) {
		return errors.New("what was signed is not what it says")
	}
	t.identifier, t.signature = s.Identifier, s.Signature
	return t.parseCertID(attributes)
}

// parseCertID: SPEC RFC 3161 §2.4.2, RFC 5816 §2.2.1: the certificate of the
// authority MUST be identified by a signed attribute, the first of its list.
func (t *token) parseCertID(attributes map[string][]byte) (err error) {
	raw, v2 := attributes[oidCertificateV2.String()]
	if !v2 {
		raw = attributes[oidCertificate.String()]
	}
	var ids certIDs
	if err := whole(raw, &ids, ""); err != nil || len(ids.Certs) == 0 {
		return errors.New("its signature does not name the certificate it was made with")
	}
	id := ids.Certs[0]
	t.certHash = id.Hash
	switch {
	case !v2:
		t.certHashFunc = crypto.SHA1
	case len(id.Algorithm.Algorithm) == 0:
		t.certHashFunc = crypto.SHA256
	default:
		t.certHashFunc, err = hashOf(id.Algorithm.Algorithm)
	}
	return err
}

// parseCertificates takes what can be part of a path; authorities send along all
// sorts of things. Their keys are bounded here, for each may cost a signature.
func (t *token) parseCertificates(set []byte) error {
	for n := 0; len(set) > 0; n++ {
		if n == maxCertificates {
			return fmt.Errorf("it carries more than %d certificates", maxCertificates)
		}
		var one asn1.RawValue
		var err error
		if set, err = asn1.Unmarshal(set, &one); err != nil {
			return fmt.Errorf("certificates: %w", err)
		}
		if c, err := x509.ParseCertificate(one.FullBytes); err == nil && cose.CheckKey(c.PublicKey) == nil {
			t.certificates = append(t.certificates, c)
		}
	}
	return nil
}

// signer finds the certificate that the signature was made with, among those of
// the token and of the authority.
func (t *token) signer(chain []*x509.Certificate) (*x509.Certificate, error) {
	for _, c := range slices.Concat(chain, t.certificates) {
		if bytes.Equal(sum(t.certHashFunc, c.Raw), t.certHash) {
			if !t.identifies(c) {
				return nil, errors.New("it names two certificates as the signer's")
			}
			return c, nil
		}
	}
	return nil, errors.New("the certificate it was signed with is neither in it nor the authority's")
}

// identifies: the SignerIdentifier of RFC 5652 §5.3, which nobody signed, must
// not contradict what is.
func (t *token) identifies(c *x509.Certificate) bool {
	if t.identifier.Class == asn1.ClassContextSpecific && t.identifier.Tag == 0 {
		return bytes.Equal(t.identifier.Bytes, c.SubjectKeyId)
	}
	var id issuerAndSerial
	return whole(t.identifier.FullBytes, &id, "") == nil && bytes.Equal(id.Issuer.FullBytes, c.RawIssuer) && id.Serial.Cmp(c.SerialNumber) == 0
}

// Token takes the token out of a TimeStampResp (RFC 3161 §2.4.2), which is what
// authorities answer and Sigstore bundles keep.
func Token(response []byte) ([]byte, error) {
	if len(response) > MaxSize {
		return nil, fmt.Errorf("time-stamp response: it has %d bytes, more than %d", len(response), MaxSize)
	}
	var r struct {
		Status struct {
			Status int
		}
		Token asn1.RawValue `asn1:"optional"`
	}
	switch err := whole(response, &r, ""); {
	case err != nil:
		return nil, fmt.Errorf("time-stamp response: not DER: %w", err)
	case r.Status.Status != 0 && r.Status.Status != 1: // granted, granted with modifications
		return nil, fmt.Errorf("time-stamp response: status %d is no grant", r.Status.Status)
	case len(r.Token.FullBytes) == 0:
		return nil, errors.New("time-stamp response: no token")
	}
	return r.Token.FullBytes, nil
}
