package statement

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"strings"
	"testing"
)

func TestTheEvidenceItselfIsWholeOrNotHere(t *testing.T) {
	key := vectorKey
	payload := []byte("an SBOM")
	sum := sha256.Sum256(payload)
	attached, detached, hashed := template(), template(), template()
	attached.Payload = payload
	detached.Payload, detached.Detached = payload, true
	hashed.Payload, hashed.HashAlg = sum[:], -16
	loose := mustSign(t, detached, key)
	given, err := loose.WithPayload(SHA256(payload), payload)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		s    *Statement
		want []byte
	}{
		"attached": {mustSign(t, attached, key), payload}, "detached": {loose, nil}, "given": {given, payload}, "hashed": {mustSign(t, hashed, key), nil},
	} {
		if got := c.s.Whole(); !bytes.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestOnlyABareInTotoStatementHasSubjects(t *testing.T) {
	one := attestation(sha256Of(strings.Repeat("ab", 32)))
	if got, err := InTotoSubjects([]byte(one)); err != nil || len(got) != 1 {
		t.Errorf("%v, %v", got, err)
	}
	for name, b := range map[string]string{"an SBOM": `{"bomFormat":"CycloneDX"}`, "nothing": "", "an envelope": `{"payloadType":"application/vnd.in-toto+json","payload":"e30="}`} {
		if got, err := InTotoSubjects([]byte(b)); !errors.Is(err, ErrMalformed) || got != nil {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}
