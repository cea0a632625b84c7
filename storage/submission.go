package storage

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
)

// EvidenceAnnotation of a submission's manifest names the payload of a detached
// statement, where that is not a layer beside it: something staged at the service.
const EvidenceAnnotation = "io.github.scittd.evidence"

// ErrSubmission: a manifest refers to something and is of a type that carries
// statements, but no statement can be taken from it.
var ErrSubmission = errors.New("bad submission")

// Submission is a manifest in which a statement about its subject comes:
// somebody's StatementType, or a transparency artifact.
type Submission struct {
	Type      string // artifactType; if absent, the config's type
	Subject   Descriptor
	Statement Descriptor

	// Payload is what a detached statement was signed over: the only other layer.
	// Of other statements it is evidence. No Digest: there is none.
	Payload  Descriptor
	Evidence string // what EvidenceAnnotation says; ""
}

// ParseSubmission reads a manifest of whatever kind. ok is false for what is
// nobody's statement; ErrSubmission where a part of one is missing or malformed.
// The blobs are to be compared with their descriptors by who reads them.
func ParseSubmission(manifest []byte) (s Submission, ok bool, err error) {
	var m struct {
		ArtifactType string            `json:"artifactType"`
		Config       Descriptor        `json:"config"`
		Subject      *Descriptor       `json:"subject"`
		Layers       []Descriptor      `json:"layers"`
		Annotations  map[string]string `json:"annotations"`
	}
	if json.Unmarshal(manifest, &m) != nil || m.Subject == nil {
		return s, false, nil // what the registry says to it is not our business
	}
	s = Submission{Type: m.ArtifactType, Subject: *m.Subject, Evidence: m.Annotations[EvidenceAnnotation]}
	if s.Type == "" {
		s.Type = m.Config.MediaType
	}
	if s.Type != StatementType && s.Type != TransparencyType {
		return s, false, nil
	}
	return s, true, s.takeLayers(m.Layers)
}

func (s *Submission) takeLayers(layers []Descriptor) error {
	var statements, others []Descriptor
	for i, l := range layers {
		if err := l.check(); err != nil {
			return fmt.Errorf("%w: layer %d: %w", ErrSubmission, i, err)
		}
		if l.MediaType == StatementType {
			statements = append(statements, l)
		} else {
			others = append(others, l)
		}
	}
	if len(statements) != 1 {
		return fmt.Errorf("%w: %d layers of type %s, and a submission has exactly one", ErrSubmission, len(statements), StatementType)
	}
	s.Statement = statements[0]
	if err := s.Subject.check(); err != nil {
		return fmt.Errorf("%w: subject: %w", ErrSubmission, err)
	}
	if len(others) == 1 && s.Type == StatementType {
		s.Payload = others[0]
	}
	return nil
}

func (d Descriptor) check() error {
	if _, err := digest.Parse(d.Digest); err != nil {
		return fmt.Errorf("digest %.100q: %w", d.Digest, err)
	}
	if d.Size < 0 {
		return fmt.Errorf("size %d", d.Size)
	}
	return nil
}

// Verify says whether b is what d describes.
func (d Descriptor) Verify(b []byte) error {
	if int64(len(b)) != d.Size {
		return fmt.Errorf("%s has %d bytes, not %d", d.Digest, len(b), d.Size)
	}
	parsed, err := digest.Parse(d.Digest)
	if err != nil {
		return fmt.Errorf("digest %.100q: %w", d.Digest, err)
	}
	if got := parsed.Algorithm().FromBytes(b); got != parsed {
		return fmt.Errorf("%w: %s as %s", ErrOtherBytes, got, d.Digest)
	}
	return nil
}
