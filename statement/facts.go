package statement

import (
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// Extractor names a way to find the artifact a statement speaks about.
type Extractor string

const (
	ExtractInToto  Extractor = "intoto" // subject[].digest of an in-toto payload
	ExtractSubject Extractor = "sub"    // the digest in sub
)

// Artifacts returns the artifact digests of the first extractor that finds any,
// sorted, without repeats. What is not a well-formed digest is no artifact.
// ErrTooManyArtifacts beyond MaxArtifacts.
func (s *Statement) Artifacts(order []Extractor) ([]Digest, error) {
	for _, extractor := range order {
		var found []Digest
		switch extractor {
		case ExtractInToto:
			payload := s.inToto()
			if payload.tooMany {
				return nil, ErrTooManyArtifacts
			}
			found = payload.digests
		case ExtractSubject:
			if ref, ok := parseRef(s.Subject); ok {
				found = []Digest{ref.Digest}
			}
		}
		if len(found) > 0 {
			return slices.Clone(found), nil
		}
	}
	return nil, nil
}

// PredicateType is that of an attached in-toto payload (plain JSON or DSSE), ""
// otherwise. It is text that can be shown and stored.
func (s *Statement) PredicateType() string { return s.inToto().predicateType }

func (s *Statement) inToto() inToto {
	switch {
	case s.Envelope != nil: // the payload is a digest
		return inToto{}
	case s.readInToto == nil: // not made by Parse
		return parseInToto(s.Payload)
	}
	return s.readInToto()
}

// Evidence is the hash envelope's payload as a digest, or SHA-256 of the
// attached payload. Of a detached statement it is what WithPayload or
// WithEvidence said, else "".
func (s *Statement) Evidence() Digest {
	switch {
	case s.Detached() && s.supplied != nil:
		return s.supplied.digest
	case s.Detached():
		return ""
	case s.Envelope != nil:
		d, _ := DigestFromBytes(s.Payload) // Parse has checked the length
		return d
	}
	return SHA256(s.Payload)
}

// Location is the place in a registry that sub names.
type Location struct {
	Host       string // with port, if any
	Repository string
	Digest     Digest
}

// Location is what sub says about where the artifact lies: oci://host/repo@…,
// host/repo@…, or the repository_url of a pkg:oci. It is the issuer's word and
// not checked by anybody.
func (s *Statement) Location() (Location, bool) {
	if ref, ok := parseRef(s.Subject); ok && ref.Host != "" {
		return ref, true
	}
	return Location{}, false
}

// parseRef reads the forms of sub that name an artifact by digest. Host and
// Repository are empty for the forms that name no place.
func parseRef(sub string) (Location, bool) {
	if scheme, _, _ := strings.Cut(sub, ":"); digestLen[scheme] > 0 {
		if d, err := ParseDigest(sub); err == nil {
			return Location{Digest: d}, true
		}
	}
	if purl, ok := strings.CutPrefix(sub, "pkg:oci/"); ok {
		return parsePurl(purl)
	}
	name, version, ok := strings.Cut(strings.TrimPrefix(sub, "oci://"), "@")
	if !ok {
		return Location{}, false
	}
	d, err := ParseDigest(version)
	if err != nil {
		return Location{}, false
	}
	host, repository, ok := splitName(name)
	if !ok {
		return Location{}, false
	}
	return Location{Host: host, Repository: repository, Digest: d}, true
}

// parsePurl reads name@sha256:…?repository_url=host/repo, what follows "pkg:oci/"
// in a package URL. The digest may be percent-encoded.
func parsePurl(s string) (Location, bool) {
	s, _, _ = strings.Cut(s, "#")
	s, qualifiers, _ := strings.Cut(s, "?")
	name, version, _ := strings.Cut(s, "@")
	version, err := url.PathUnescape(version)
	if err != nil || name == "" || strings.Contains(name, "/") {
		return Location{}, false
	}
	var ref Location
	if ref.Digest, err = ParseDigest(version); err != nil {
		return Location{}, false
	}
	// A qualifier that cannot be read names no place; the digest stands.
	if q, err := url.ParseQuery(qualifiers); err == nil {
		where := strings.TrimPrefix(q.Get("repository_url"), "oci://")
		if host, repository, ok := splitName(where); ok {
			ref.Host, ref.Repository = host, repository
		}
	}
	return ref, true
}

// The grammar of image names, as registries have it.
var (
	hostPattern = regexp.MustCompile(`^(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*|\[[a-fA-F0-9:]+\])(?::[0-9]{1,5})?$`)
	repoPattern = regexp.MustCompile(`^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagPattern  = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
)

// splitName splits host/repository[:tag]; the tag is dropped, for only the digest counts.
func splitName(name string) (host, repository string, ok bool) {
	host, repository, _ = strings.Cut(name, "/")
	repository, tag, tagged := strings.Cut(repository, ":")
	if tagged && !tagPattern.MatchString(tag) {
		return "", "", false
	}
	if !hostPattern.MatchString(host) || !repoPattern.MatchString(repository) || len(repository) > 255 {
		return "", "", false
	}
	return host, repository, true
}
