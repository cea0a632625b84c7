package ledger

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"golang.org/x/mod/sumdb/note"

	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/statement"
)

// LeafRule names how a statement becomes a leaf of the tree.
const LeafRule = "sha256(0x00 || sha256(canonical statement))"

// Service is the payload of a service statement: leaf 1, and later ones, which
// announce new keys before their first use. It is what the log says about
// itself, so every replica serves the same.
type Service struct {
	Version        int      `json:"version"`
	URL            string   `json:"url"`
	Origin         string   `json:"origin"`
	LeafRule       string   `json:"leafRule"`
	ReceiptKeys    [][]byte `json:"receiptKeys"`    // COSE_Key, current first
	CheckpointKeys []string `json:"checkpointKeys"` // note vkeys, current first
}

// serviceOf reads the announcement that s carries.
func serviceOf(s *statement.Statement) (Service, error) {
	var svc Service
	if s.Envelope != nil || s.Payload == nil {
		return svc, errors.New("a service statement carries its payload")
	}
	d := json.NewDecoder(bytes.NewReader(s.Payload))
	d.DisallowUnknownFields()
	if err := d.Decode(&svc); err != nil {
		return svc, fmt.Errorf("service statement: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return svc, errors.New("service statement: bytes after the document")
	}
	switch {
	case svc.Version != 1:
		return svc, fmt.Errorf("service statement: version %d is not 1", svc.Version)
	case svc.URL != s.Issuer:
		return svc, fmt.Errorf("service statement: url %q is not its issuer %q", svc.URL, s.Issuer)
	case svc.Origin == "":
		return svc, errors.New("service statement: no origin")
	case svc.LeafRule != LeafRule:
		return svc, fmt.Errorf("service statement: leaf rule %q is not %q", svc.LeafRule, LeafRule)
	case len(svc.ReceiptKeys) == 0:
		return svc, errors.New("service statement: no receipt key")
	}
	// SPEC C2SP tlog-checkpoint: the key's name should be the origin.
	for _, vkey := range svc.CheckpointKeys {
		if v, err := note.NewVerifier(vkey); err != nil || v.Name() != svc.Origin {
			return svc, fmt.Errorf("service statement: checkpoint key %q is not an Ed25519 verifier key named %s", vkey, svc.Origin)
		}
	}
	_, err := keysOf([]Service{svc})
	return svc, err
}

// succeeds refuses an announcement that would make another log of this one.
func (s Service) succeeds(first Service) error {
	if s.URL != first.URL || s.Origin != first.Origin {
		return fmt.Errorf("service statement: %s (%s) is not this log, %s (%s)", s.URL, s.Origin, first.URL, first.Origin)
	}
	return nil
}

// keysOf collects receipt keys from announcements, newest first: current, then
// retired. A key is listed once, where it was named last.
func keysOf(announced []Service) (receipts.KeySet, error) {
	var keys receipts.KeySet
	for _, svc := range announced {
		for _, b := range svc.ReceiptKeys {
			k, err := cose.ParseKey(b)
			if err != nil {
				return nil, fmt.Errorf("service statement: receipt key: %w", err)
			}
			thumbprint, err := cose.Thumbprint(k.Public)
			if err != nil {
				return nil, fmt.Errorf("service statement: receipt key: %w", err)
			}
			k.ID = thumbprint[:] // what receipts name it by
			if _, ok := keys.Find(k.ID); !ok {
				keys = append(keys, k)
			}
		}
	}
	return keys, nil
}

func carries(s *statement.Statement, mediaType string) bool {
	return s.MediaType() == mediaType
}

// What operators say steers the ledger itself or tells what became of it, and is
// therefore never placed.
func steers(s *statement.Statement) bool {
	return carries(s, policy.MediaType) || carries(s, policy.ServiceMediaType) || carries(s, policy.PurgeMediaType)
}
