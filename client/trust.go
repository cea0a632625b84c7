package client

import (
	"crypto"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/receipts"
)

// Trust is what a relying party has decided to believe: the receipt keys of
// transparency services, and keys or roots of issuers, pinned. It is one YAML
// file that people can read, review and copy to a machine without network.
type Trust struct {
	Services []PinnedService `yaml:"services" json:"services"`
	Issuers  []TrustedIssuer `yaml:"issuers,omitempty" json:"issuers"`
}

// PinnedService is a service and the receipt keys it was seen with.
type PinnedService struct {
	URL    string      `yaml:"url" json:"url"`       // iss of its receipts
	Pinned string      `yaml:"pinned" json:"pinned"` // date, for people
	Keys   []PinnedKey `yaml:"keys" json:"keys"`
}

// PinnedKey is one receipt key. ID is the base64url RFC 9679 thumbprint, which
// is compared with Key when the file is read.
type PinnedKey struct {
	ID  string `yaml:"id" json:"id"`
	Key string `yaml:"key" json:"key"` // COSE_Key, base64
}

// TrustedIssuer is one way to verify an issuer's signatures again, without
// asking the service that admitted them: a key, or roots of its certificates.
// An issuer may have several, after a rotation of keys.
type TrustedIssuer struct {
	Issuer string `yaml:"issuer" json:"issuer"`
	Key    string `yaml:"key,omitempty" json:"key,omitempty"`     // PEM
	Roots  string `yaml:"roots,omitempty" json:"roots,omitempty"` // PEM

	// What a leaf below Roots must carry.
	SAN string `yaml:"san,omitempty" json:"san,omitempty"` // subject alternative name; absent: a URI equal to Issuer
	EKU string `yaml:"eku,omitempty" json:"eku,omitempty"` // extended key usage, name or OID; absent: codeSigning
}

// ReadTrust reads a trust file strictly; one that does not exist is empty.
func ReadTrust(file string) (Trust, error) {
	t := Trust{Services: []PinnedService{}, Issuers: []TrustedIssuer{}}
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return t, nil
	}
	if err != nil {
		return t, err
	}
	if err := readYAML(text, &t); err != nil {
		return t, fmt.Errorf("%s: %w", file, err)
	}
	for _, s := range t.Services {
		if _, err := s.KeySet(); err != nil {
			return t, fmt.Errorf("%s: %w", file, err)
		}
	}
	for _, i := range t.Issuers {
		if err := i.check(); err != nil {
			return t, fmt.Errorf("%s: %w", file, err)
		}
	}
	return t, nil
}

// Write replaces the file with t, readable by its owner.
func (t Trust) Write(file string) error { return writeYAML(file, t) }

// check refuses an entry that could never verify anything.
func (i TrustedIssuer) check() error {
	switch {
	case i.Issuer == "":
		return errors.New("an issuer without a name")
	case (i.Key == "") == (i.Roots == ""):
		return fmt.Errorf("issuer %q: want a key or roots", i.Issuer)
	case i.Key != "":
		if _, err := i.publicKey(); err != nil {
			return fmt.Errorf("key of %q: %w", i.Issuer, err)
		}
		return nil
	}
	_, err := i.authority()
	return err
}

func (i TrustedIssuer) publicKey() (crypto.PublicKey, error) {
	key, err := cose.ParsePublic([]byte(i.Key))
	return key.Public, err
}

// TrustIssuer adds one way to verify an issuer's signatures.
func (t *Trust) TrustIssuer(issuer TrustedIssuer) error {
	if err := issuer.check(); err != nil {
		return err
	}
	if !slices.Contains(t.Issuers, issuer) {
		t.Issuers = append(t.Issuers, issuer)
	}
	return nil
}

// Pin adds keys to those pinned for the service at url, the new ones first.
func (t *Trust) Pin(url string, keys receipts.KeySet, now time.Time) error {
	i := slices.IndexFunc(t.Services, func(s PinnedService) bool { return s.URL == url })
	if i < 0 {
		t.Services = append(t.Services, PinnedService{URL: url})
		i = len(t.Services) - 1
	}
	s := &t.Services[i]
	s.Pinned = now.UTC().Format(time.DateOnly)
	var added []PinnedKey
	for _, key := range keys {
		id, err := Fingerprint(key)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(s.Keys, func(k PinnedKey) bool { return k.ID == id }) {
			continue
		}
		raw, err := key.Marshal()
		if err != nil {
			return err
		}
		added = append(added, PinnedKey{ID: id, Key: base64.StdEncoding.EncodeToString(raw)})
	}
	s.Keys = append(added, s.Keys...)
	return nil
}

// Remove forgets the service or issuer of that name; false when it was not there.
func (t *Trust) Remove(name string) bool {
	n := len(t.Services) + len(t.Issuers)
	t.Services = slices.DeleteFunc(t.Services, func(s PinnedService) bool { return s.URL == name })
	t.Issuers = slices.DeleteFunc(t.Issuers, func(i TrustedIssuer) bool { return i.Issuer == name })
	return len(t.Services)+len(t.Issuers) < n
}

// Find returns the pin of the service at url.
func (t Trust) Find(url string) (PinnedService, bool) {
	i := slices.IndexFunc(t.Services, func(s PinnedService) bool { return s.URL == url })
	if i < 0 {
		return PinnedService{}, false
	}
	return t.Services[i], true
}

// KeySet returns the pinned keys. A key that is not the one of its id is an
// error.
func (s PinnedService) KeySet() (receipts.KeySet, error) {
	var set receipts.KeySet
	for _, k := range s.Keys {
		key, err := k.read()
		if err != nil {
			return nil, fmt.Errorf("key %s of %s: %w", k.ID, s.URL, err)
		}
		set = append(set, key)
	}
	return set, nil
}

func (k PinnedKey) read() (cose.Key, error) {
	raw, err := base64.StdEncoding.DecodeString(k.Key)
	if err != nil {
		return cose.Key{}, err
	}
	key, err := cose.ParseKey(raw)
	if err != nil {
		return cose.Key{}, err
	}
	id, err := Fingerprint(key)
	if err == nil && id != k.ID {
		err = fmt.Errorf("its thumbprint is %s", id)
	}
	return key, err
}

// Fingerprint is how people compare a key: its RFC 9679 thumbprint, base64url.
func Fingerprint(key cose.Key) (string, error) {
	sum, err := cose.Thumbprint(key.Public)
	return base64.RawURLEncoding.EncodeToString(sum[:]), err
}

// Verify checks a receipt for an entry under the pinned keys of the service
// that it names (RFC 9943 §7). ErrNotPinned: nothing is wrong with it, as far
// as can be seen, but its service or its key is not pinned.
func (t Trust) Verify(r *receipts.Receipt, entry []byte) error {
	pin, ok := t.Find(r.Issuer)
	if !ok {
		return fmt.Errorf("%w: the service %q", ErrNotPinned, r.Issuer)
	}
	set, err := pin.KeySet()
	if err != nil {
		return err
	}
	err = set.Verify(r, entry, receipts.Strict)
	if errors.Is(err, receipts.ErrUnknownKey) {
		return fmt.Errorf("%w: key %s of %s", ErrNotPinned, short(r.KeyID), r.Issuer)
	}
	return err
}

// ErrNotPinned: a receipt's service or key is not among those that Trust pins.
var ErrNotPinned = errors.New("not pinned")

// short is enough of a kid to recognise it by.
func short(kid []byte) string {
	text := base64.RawURLEncoding.EncodeToString(kid)
	return text[:min(8, len(text))] + ".."
}
