package policy

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/statement"
)

// Document is what a policy says. Members are added, never removed or given
// another meaning; a member added later is omitted when empty, so that the
// logged bytes of old policies stay canonical.
type Document struct {
	Version        int                   `json:"version" yaml:"version"`   // 1
	Previous       *statement.ID         `json:"previous" yaml:"previous"` // entry of the policy it replaces; nil in the first
	Operators      []Operator            `json:"operators" yaml:"operators"`
	Threshold      int                   `json:"threshold" yaml:"threshold"` // operators who have to sign the next policy
	Issuers        []Issuer              `json:"issuers" yaml:"issuers"`
	Deny           []string              `json:"deny,omitempty" yaml:"deny"` // issuers refused whatever else is said
	Subjects       []statement.Extractor `json:"subjects" yaml:"subjects"`   // in the order they are tried
	RequireSubject bool                  `json:"requireSubject,omitempty" yaml:"requireSubject"`
	Repositories   []Mapping             `json:"repositories,omitempty" yaml:"repositories"`
	Rules          []Rule                `json:"rules,omitempty" yaml:"rules"` // bind every issuer
	Visibility     Visibility            `json:"visibility" yaml:"visibility"`
	Limits         Limits                `json:"limits,omitzero" yaml:"limits"`
}

// Defaults is the Document that a file starts from: what it does not say.
func Defaults() Document {
	return Document{
		Version:    1,
		Threshold:  1,
		Issuers:    []Issuer{},
		Subjects:   []statement.Extractor{statement.ExtractInToto, statement.ExtractSubject},
		Visibility: Public,
	}
}

// Operator is a key that may sign policies and service statements.
type Operator struct {
	Key Key   `json:"key" yaml:"key"`
	Kid KeyID `json:"kid,omitempty" yaml:"kid"` // default: the kid of the COSE_Key, else the thumbprint
}

// Issuer is one rule: an identity, and what it may register. The same iss may
// have several rules, to rotate keys or to treat media types differently; the
// first one that fits decides. A rule with iss hides every pattern for that iss.
type Issuer struct {
	Name string `json:"name,omitempty" yaml:"name"` // what answers and entries call this rule; absent: its place, as "issuers[1]"

	Iss     string `json:"iss,omitempty" yaml:"iss"`         // exact; or
	Pattern string `json:"pattern,omitempty" yaml:"pattern"` // anchored RE2 expression, for x509 only

	Key  *Key  `json:"key,omitempty" yaml:"key"` // a pinned key; or
	Kid  KeyID `json:"kid,omitempty" yaml:"kid"`
	X509 *X509 `json:"x509,omitempty" yaml:"x509"` // certificates; or

	DID  *DID    `json:"did,omitempty" yaml:"did"`   // iss is a DID; or
	Keys *KeySet `json:"keys,omitempty" yaml:"keys"` // keys that the issuer publishes; or
	OIDC *OIDC   `json:"oidc,omitempty" yaml:"oidc"` // certificates of who has logged in somewhere

	MediaTypes     []string   `json:"mediaTypes,omitempty" yaml:"mediaTypes"`         // absent: any
	Repositories   []string   `json:"repositories,omitempty" yaml:"repositories"`     // globs as in path.Match
	PredicateTypes []string   `json:"predicateTypes,omitempty" yaml:"predicateTypes"` // absent: any; what is no attached in-toto statement has none
	Require        *Require   `json:"require,omitempty" yaml:"require"`               // claims
	Rules          []Rule     `json:"rules,omitempty" yaml:"rules"`                   // bind this issuer beside those of the document
	Evidence       *Evidence  `json:"evidence,omitempty" yaml:"evidence"`             // whose own signer is checked
	Visibility     Visibility `json:"visibility,omitempty" yaml:"visibility"`         // absent: the policy's
}

// X509 says which certificates speak for an issuer: those that lead to one of
// Roots and whose leaf carries the name, the usage and the subject.
type X509 struct {
	Roots         []Root            `json:"roots" yaml:"roots"`
	Intermediates []Root            `json:"intermediates,omitempty" yaml:"intermediates"` // that a message may leave out
	CRLs          []CRL             `json:"crls,omitempty" yaml:"crls"`                   // each of a CA that is listed
	CRLExpired    string            `json:"crlExpired,omitempty" yaml:"crlExpired"`       // RefuseExpired or AllowExpired; absent: refuse
	SAN           string            `json:"san,omitempty" yaml:"san"`                     // URI, e-mail or DNS name, exact or with *; absent: a URI equal to iss
	Subject       map[string]string `json:"subject,omitempty" yaml:"subject"`             // what its name must have, as O: Wabbit
	EKU           string            `json:"eku,omitempty" yaml:"eku"`                     // name, OID or none; absent: codeSigning
	Deny          []Denied          `json:"deny,omitempty" yaml:"deny"`                   // certificates that are refused all the same
}

// Mapping places claims whose sub has no location of ours: Match is a glob (as
// in path.Match) for the name in sub, To a repository of our registry.
type Mapping struct {
	Match string `json:"match" yaml:"match"`
	To    string `json:"to" yaml:"to"`
}

// Limits bound what is otherwise allowed.
type Limits struct {
	MaxAge Duration `json:"maxAge,omitempty" yaml:"maxAge"` // of a statement that carries iat; 0: none
}

// Visibility is who may find an entry. Private ones are never placed.
type Visibility string

const (
	Public  Visibility = "public"
	Private Visibility = "private"
)

// Key is a public key; its text is the base64 of a COSE_Key.
type Key cose.Key

func (k Key) MarshalText() ([]byte, error) {
	b, err := cose.Key(k).Marshal()
	if err != nil {
		return nil, err
	}
	return encode64(b), nil
}

func (k *Key) UnmarshalText(text []byte) error {
	b, err := decode64(text)
	if err != nil {
		return err
	}
	parsed, err := cose.ParseKey(b)
	if err != nil {
		return err
	}
	*k = Key(parsed)
	return nil
}

// Root is a trust anchor; its text is the base64 of its DER.
type Root struct{ *x509.Certificate }

func (r Root) MarshalText() ([]byte, error) {
	if r.Certificate == nil {
		return nil, errors.New("no certificate")
	}
	return encode64(r.Raw), nil
}

func (r *Root) UnmarshalText(text []byte) error {
	b, err := decode64(text)
	if err != nil {
		return err
	}
	r.Certificate, err = x509.ParseCertificate(b)
	return err
}

// KeyID is a kid. Its text is the kid itself when that is printable, else
// "hex:" and lower-case digits.
type KeyID []byte

const hexKeyID = "hex:"

func (id KeyID) String() string {
	if s := string(id); printable(s) && !strings.HasPrefix(s, hexKeyID) {
		return s
	}
	return hexKeyID + hex.EncodeToString(id)
}

func (id KeyID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

func (id *KeyID) UnmarshalText(text []byte) error {
	if digits, ok := bytes.CutPrefix(text, []byte(hexKeyID)); ok {
		b, err := hex.AppendDecode(nil, digits)
		if err != nil || len(b) == 0 {
			return fmt.Errorf("kid %s: %q must be followed by pairs of hex digits", quote(string(text)), hexKeyID)
		}
		*id = b
		return nil
	}
	if !printable(string(text)) {
		return fmt.Errorf("kid %s is not printable; write it as %s…", quote(string(text)), hexKeyID)
	}
	*id = bytes.Clone(text)
	return nil
}

// Duration is a time.Duration whose text is that of time.ParseDuration.
type Duration time.Duration

func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%s is no duration; write hours as 8760h", quote(string(text)))
	}
	*d = Duration(v)
	return nil
}

// printable: not empty, and nothing that hides or reorders what a reader sees.
func printable(s string) bool {
	if s == "" || !utf8.ValidString(s) || strings.TrimSpace(s) != s {
		return false
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}

func encode64(b []byte) []byte { return base64.StdEncoding.AppendEncode(nil, b) }

func decode64(text []byte) ([]byte, error) {
	b, err := base64.StdEncoding.Strict().AppendDecode(nil, text)
	if err != nil {
		return nil, fmt.Errorf("not base64: %w", err)
	}
	return b, nil
}
