package policy

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/scittd/scittd/internal/timestamp"
)

// TrustedRoot is what a policy takes from a Sigstore trusted_root.json: who
// certifies and who stamps time, and when their word counts.
type TrustedRoot struct {
	CertificateAuthorities []TrustedAuthority `json:"certificateAuthorities" yaml:"certificateAuthorities"`
	TimestampAuthorities   []TrustedAuthority `json:"timestampAuthorities,omitempty" yaml:"timestampAuthorities"`
}

// TrustedAuthority is a chain of CAs, its root last, and when it counts.
type TrustedAuthority struct {
	Chain []Root    `json:"chain" yaml:"chain"`
	From  time.Time `json:"from,omitzero" yaml:"from"` // both ends included; absent is open
	To    time.Time `json:"to,omitzero" yaml:"to"`
}

// compile fills the anchors of certificates, and returns the authorities of time.
func (t TrustedRoot) compile(a *anchors) ([]timestamp.Authority, error) {
	if len(t.CertificateAuthorities) == 0 {
		return nil, errors.New("certificateAuthorities: none")
	}
	for i, doc := range t.CertificateAuthorities {
		if err := doc.certifies(a); err != nil {
			return nil, fmt.Errorf("certificateAuthorities[%d]: %w", i, err)
		}
	}
	var clocks []timestamp.Authority
	for i, doc := range t.TimestampAuthorities {
		if err := doc.check(); err != nil {
			return nil, fmt.Errorf("timestampAuthorities[%d]: %w", i, err)
		}
		clock := timestamp.Authority{From: doc.From, To: doc.To}
		for _, c := range doc.Chain {
			clock.Chain = append(clock.Chain, c.Certificate)
		}
		clocks = append(clocks, clock)
	}
	return clocks, nil
}

func (t TrustedAuthority) check() error {
	if len(t.Chain) == 0 {
		return errors.New("no certificates")
	}
	for i, c := range t.Chain {
		if c.Certificate == nil {
			return fmt.Errorf("chain[%d]: missing", i)
		}
	}
	if !t.From.IsZero() && !t.To.IsZero() && t.To.Before(t.From) {
		return errors.New("it ends before it begins")
	}
	return nil
}

// certifies takes the chain in. One root may stand in several authorities, as
// with a pause between their times.
func (t TrustedAuthority) certifies(a *anchors) error {
	if err := t.check(); err != nil {
		return err
	}
	last := len(t.Chain) - 1
	for _, c := range t.Chain[:last] {
		if !containsCertificate(a.between, c.Certificate) {
			if err := a.add(c.Certificate, false); err != nil {
				return err
			}
		}
	}
	root := t.Chain[last].Certificate
	at := 0
	for at < len(a.roots) && !a.roots[at].Equal(root) {
		at++
	}
	if at == len(a.roots) {
		if err := a.add(root, true); err != nil {
			return err
		}
	}
	counts := term{window: window{t.From, t.To}}
	for _, c := range t.Chain {
		counts.chain = append(counts.chain, c.Certificate)
	}
	a.roots[at].terms = append(a.roots[at].terms, counts)
	return nil
}

func containsCertificate(list []*x509.Certificate, c *x509.Certificate) bool {
	for _, other := range list {
		if other.Equal(c) {
			return true
		}
	}
	return false
}

// ParseTrustedRoot reads Sigstore's JSON (dev.sigstore.trustroot.v1.TrustedRoot).
// What is not about certificates and time-stamps is left out.
func ParseTrustedRoot(b []byte) (TrustedRoot, error) {
	var file struct {
		MediaType              string
		CertificateAuthorities []sigstoreAuthority
		TimestampAuthorities   []sigstoreAuthority
	}
	if err := json.Unmarshal(b, &file); err != nil {
		return TrustedRoot{}, fmt.Errorf("not a trusted root: %w", err)
	}
	if !strings.HasPrefix(file.MediaType, "application/vnd.dev.sigstore.trustedroot") {
		return TrustedRoot{}, fmt.Errorf("not a trusted root: media type %s", quote(file.MediaType))
	}
	var t TrustedRoot
	var err error
	if t.CertificateAuthorities, err = authorities(file.CertificateAuthorities); err != nil {
		return t, fmt.Errorf("certificateAuthorities: %w", err)
	}
	if t.TimestampAuthorities, err = authorities(file.TimestampAuthorities); err != nil {
		return t, fmt.Errorf("timestampAuthorities: %w", err)
	}
	return t, nil
}

type sigstoreAuthority struct {
	CertChain struct {
		Certificates []struct{ RawBytes []byte }
	}
	ValidFor struct{ Start, End time.Time }
}

func authorities(list []sigstoreAuthority) ([]TrustedAuthority, error) {
	var all []TrustedAuthority
	for i, doc := range list {
		a := TrustedAuthority{From: doc.ValidFor.Start.UTC(), To: doc.ValidFor.End.UTC()}
		for _, raw := range doc.CertChain.Certificates {
			c, err := x509.ParseCertificate(raw.RawBytes)
			if err != nil {
				return nil, fmt.Errorf("[%d]: %w", i, err)
			}
			a.Chain = append(a.Chain, Root{c})
		}
		all = append(all, a)
	}
	return all, nil
}
