package policy

import (
	"path"
	"slices"
	"strings"

	"github.com/scittd/scittd/statement"
)

// Repositories returns where a registered claim is placed: named (by the /v2
// path) wins; else the location in sub, when its host is ownHost and it lies
// inside the issuer's repositories; else whatever the policy's mapping says;
// else none. Private claims and those of operators have no place. It is no part
// of the Decision.
//
// The error is a *Refusal with CodeRepositoryMismatch: the signed bytes name
// another repository of ownHost than named.
func (p *Policy) Repositories(s *statement.Statement, named, ownHost string) ([]string, error) {
	signed, located := s.Location()
	located = located && ownHost != "" && strings.EqualFold(signed.Host, ownHost)
	if located && named != "" && signed.Repository != named {
		refusal := refuse(CodeRepositoryMismatch, "sub", "register it at "+quote(signed.Repository)+", or sign a sub that names no repository",
			"sub names repository %s, not %s", quote(signed.Repository), quote(named))
		refusal.Policy = p.Entry
		return nil, refusal
	}
	if forOperators(s) {
		return nil, nil
	}
	// Who may not register it cannot place it. Where several rules fit, one that
	// says private is enough: what was placed cannot be taken back.
	rules, refusal := p.candidates(s)
	if refusal != nil || slices.ContainsFunc(rules, func(r *rule) bool { return r.private }) {
		return nil, nil
	}
	if named != "" {
		return valid(named), nil
	}
	if located && slices.ContainsFunc(rules, func(r *rule) bool { return r.admitsRepository(signed.Repository) }) {
		return valid(signed.Repository), nil
	}
	return p.mapped(s), nil
}

// mapped is where the policy's mapping places what sub names.
func (p *Policy) mapped(s *statement.Statement) []string {
	var to []string
	name := artifactName(s)
	for _, m := range p.Document.Repositories {
		if ok, _ := path.Match(m.Match, name); ok && !slices.Contains(to, m.To) {
			to = append(to, m.To)
		}
	}
	return to
}

// Concerns refuses a claim that came for one image while its signed bytes name
// others: artifacts are those that a Decision found. A claim that names none may
// be hung on any image, which says nothing about it.
func (p *Policy) Concerns(artifacts []statement.Digest, image statement.Digest) error {
	if image == "" || len(artifacts) == 0 || slices.Contains(artifacts, image) {
		return nil
	}
	refusal := refuse(CodeSubjectMismatch, "subjects", "push it as a referrer of "+string(artifacts[0])+", or sign a statement about "+string(image),
		"the signed bytes speak about %s, not about %s", artifacts[0], image)
	refusal.Policy = p.Entry
	return refusal
}

// valid is name as a list, empty when no registry could have such a repository.
func valid(name string) []string {
	if !ValidRepository(name) {
		return nil
	}
	return []string{name}
}

func (r *rule) admitsRepository(name string) bool {
	return slices.ContainsFunc(r.Repositories, func(glob string) bool {
		ok, _ := path.Match(glob, name)
		return ok
	})
}

// artifactName is the name that sub gives the artifact, for the mapping: that
// of a package URL; the repository of a location, wherever it is; else all of
// sub before the digest.
func artifactName(s *statement.Statement) string {
	if purl, ok := strings.CutPrefix(s.Subject, "pkg:oci/"); ok {
		name, _, _ := strings.Cut(purl, "@")
		return name
	}
	if at, ok := s.Location(); ok {
		return at.Repository
	}
	name, _, _ := strings.Cut(s.Subject, "@")
	return name
}
