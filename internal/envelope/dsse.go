package envelope

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	_ "crypto/sha256"
	_ "crypto/sha512"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/statement"
)

// readDSSE reads {payloadType, payload, signatures: [{keyid, sig}]}. What it
// carries has to be an in-toto Statement, so that it can be told what it is about.
func (e *Envelope) readDSSE(o object) error {
	kind, err := o.text("payloadType")
	if err != nil {
		return err
	}
	if !isInToto(kind) {
		return fmt.Errorf("payloadType %.100q; want application/vnd.in-toto+json", kind)
	}
	payload, err := o.bytes("payload")
	if err != nil {
		return err
	}
	if _, err = document(payload); err == nil {
		e.Artifacts, err = statement.InTotoSubjects(payload)
	}
	if err != nil {
		return fmt.Errorf("payload: %w", err)
	}
	list, err := o.list("signatures", MaxSignatures)
	if err != nil {
		return err
	}
	if len(list) == 0 {
		return errors.New("signatures: none")
	}
	signed := &pae{kind: kind, payload: payload}
	for i, raw := range list {
		s, err := readSignature(raw)
		if err != nil {
			return fmt.Errorf("signatures[%d]: %w", i, err)
		}
		s.content = signed
		e.Signatures = append(e.Signatures, s)
	}
	return nil
}

func isInToto(t string) bool {
	t = strings.ToLower(t)
	return t == "application/vnd.in-toto+json" || strings.HasPrefix(t, "application/vnd.in-toto.") && strings.HasSuffix(t, "+json")
}

// readSignature reads one signature. A certificate beside it is no part of DSSE,
// but what several generators of provenance write.
func readSignature(raw []byte) (s Signature, err error) {
	o, err := split(raw)
	if err != nil {
		return s, err
	}
	if s.KeyID, err = o.text("keyid"); err != nil {
		return s, err
	}
	if s.Bytes, err = o.bytes("sig"); err != nil {
		return s, err
	}
	text, err := o.text("cert")
	if err != nil {
		return s, err
	}
	for rest := []byte(text); len(s.Chain) <= statement.MaxChain; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return s, fmt.Errorf("cert: PEM block %.40q", block.Type)
		}
		s.Chain = append(s.Chain, block.Bytes)
	}
	return s, nil
}

// pae is the pre-authentication encoding of DSSE: what its signatures are over.
// Written out it would be a second copy of the payload, so it is hashed in parts,
// once for every hash that is asked for.
type pae struct {
	kind    string
	payload []byte
	sums    map[crypto.Hash][]byte
}

func (p *pae) head() string {
	return fmt.Sprintf("DSSEv1 %d %s %d ", len(p.kind), p.kind, len(p.payload))
}

func (p *pae) sum(h crypto.Hash) []byte {
	if p.sums[h] == nil {
		d := h.New()
		d.Write([]byte(p.head()))
		d.Write(p.payload)
		if p.sums == nil {
			p.sums = map[crypto.Hash][]byte{}
		}
		p.sums[h] = d.Sum(nil)
	}
	return p.sums[h]
}

// verify: DSSE names no algorithm, so the key does: ECDSA hashes with the size of
// its curve, and RSA with SHA-256, in either padding.
func (p *pae) verify(pub crypto.PublicKey, s Signature) error {
	switch pub := pub.(type) {
	case ed25519.PublicKey:
		return held(ed25519.Verify(pub, append([]byte(p.head()), p.payload...), s.Bytes))
	case *ecdsa.PublicKey:
		return held(ecdsa.VerifyASN1(pub, p.sum(hashOf(pub)), s.Bytes))
	case *rsa.PublicKey:
		return verifyRSA(pub, crypto.SHA256, p.sum(crypto.SHA256), s.Bytes)
	}
	return cose.ErrAlgorithm
}

func held(ok bool) error {
	if !ok {
		return cose.ErrSignature
	}
	return nil
}

// hashOf is the hash that goes with a curve.
func hashOf(pub *ecdsa.PublicKey) crypto.Hash {
	switch bits := pub.Curve.Params().BitSize; {
	case bits <= 256:
		return crypto.SHA256
	case bits <= 384:
		return crypto.SHA384
	default:
		return crypto.SHA512
	}
}

func verifyRSA(pub *rsa.PublicKey, h crypto.Hash, sum, sig []byte) error {
	return held(rsa.VerifyPKCS1v15(pub, h, sum, sig) == nil || rsa.VerifyPSS(pub, h, sum, sig, nil) == nil)
}
