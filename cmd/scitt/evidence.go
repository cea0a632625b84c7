package main

import (
	"encoding/json"
	"io"
	"os"
	"strings"

	"github.com/scittd/scittd/internal/envelope"
	"github.com/scittd/scittd/statement"
)

// attachLimit is the size up to which evidence travels inside the statement by
// default; beyond it, its hash does, and the evidence can be purged alone.
const attachLimit = 64 << 10

// evidence is a file that a statement is about to be made over.
type evidence struct {
	file      string
	mediaType string
	digest    statement.Digest
	size      int64
}

// readEvidence hashes a file and finds out what it is.
func readEvidence(file, mediaType string) (evidence, error) {
	e := evidence{file: file, mediaType: mediaType}
	if file == "" {
		return e, usage("there is no evidence to claim something with").try("add --evidence FILE")
	}
	var err error
	if e.digest, e.size, err = digestFile(file, "sha256"); err != nil {
		return e, usage("--evidence: %w", err)
	}
	if e.size == 0 {
		return e, usage("--evidence %s is empty", file)
	}
	if e.mediaType == "" {
		e.mediaType, err = sniff(file)
	}
	return e, err
}

// payloadLimit is how much of a detached payload a service verifies a signature
// over, and so what there is to read.
const payloadLimit = 32 << 20

// readPayload reads what may be the payload of a detached statement; nil for a
// file that is too large to be one.
func readPayload(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, payloadLimit+1))
	if err != nil || len(b) > payloadLimit {
		return nil, err
	}
	return b, nil
}

// signedOver is s, which is detached, over the evidence in file.
func (e evidence) signedOver(s *statement.Statement) (*statement.Statement, error) {
	payload, err := readPayload(e.file)
	if err != nil {
		return nil, usage("--evidence: %w", err)
	}
	if payload == nil {
		return nil, usage("--evidence %s has more than %d bytes, over which no signature is verified", e.file, payloadLimit).
			try("sign its digest as a hash envelope: scitt sign --hash-envelope always")
	}
	return s.WithPayload(e.digest, payload)
}

func (e evidence) open() (io.ReadCloser, error) { return os.Open(e.file) }

// sniff recognises the usual JSON documents by the members that name them, and a
// Notary Project signature, which is COSE.
func sniff(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var members struct {
		SPDXVersion string          `json:"spdxVersion"`
		BOMFormat   string          `json:"bomFormat"`
		Type        string          `json:"_type"`
		PayloadType string          `json:"payloadType"`
		Context     json.RawMessage `json:"@context"`
		Schema      string          `json:"$schema"`
		Runs        json.RawMessage `json:"runs"`
		MediaType   string          `json:"mediaType"`
	}
	if err := json.NewDecoder(f).Decode(&members); err != nil {
		if notary(f) {
			return "application/cose", nil
		}
		return "", unknownType(file)
	}
	context := string(members.Context)
	switch {
	case members.SPDXVersion != "" || strings.Contains(context, "spdx.org"):
		return "application/spdx+json", nil
	case members.BOMFormat == "CycloneDX":
		return "application/vnd.cyclonedx+json", nil
	case strings.HasPrefix(members.Type, "https://in-toto.io/Statement/"):
		return "application/vnd.in-toto+json", nil
	case members.PayloadType != "":
		return "application/vnd.dsse.envelope.v1+json", nil
	case strings.HasPrefix(members.MediaType, "application/vnd.dev.sigstore.bundle"):
		name, _, _ := strings.Cut(members.MediaType, ";")
		return name, nil
	case strings.Contains(context, "openvex.dev"):
		return "application/vnd.openvex+json", nil
	case members.Runs != nil && strings.Contains(members.Schema, "sarif"):
		return "application/sarif+json", nil
	}
	return "", unknownType(file)
}

// notary says whether f is a Notary Project signature, which is never large.
func notary(f *os.File) bool {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return false
	}
	b, err := io.ReadAll(io.LimitReader(f, statement.MaxSize))
	if err != nil {
		return false
	}
	e, err := envelope.Parse(b)
	return err == nil && e.Kind == envelope.Notary
}

func unknownType(file string) error {
	return usage("%s is none of SPDX, CycloneDX, in-toto, DSSE, Sigstore bundle, Notary signature, OpenVEX, SARIF", file).try("say what it is: --media-type TYPE/SUBTYPE")
}
