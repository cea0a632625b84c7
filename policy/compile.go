package policy

import (
	"fmt"
	"mime"
	"net/url"
	"path"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/scittd/scittd/statement"
)

// maxPattern bounds the source of a pattern; matching is linear anyway.
const maxPattern = 1024

// rule is an Issuer made ready to judge by.
type rule struct {
	Issuer
	path    string         // "issuers[1]", or its name
	pattern *regexp.Regexp // nil unless Pattern is set
	by      source
	key     *pinned    // of by, when that is a pinned key
	certs   *authority // of by, when that is certificates
	private bool
}

func (r *rule) admitsIssuer(iss string) bool {
	if r.pattern != nil {
		return r.pattern.MatchString(iss)
	}
	return r.Iss == iss
}

// New checks d and makes it ready to judge by. Build d on Defaults. The error
// names the place in the document.
func New(d Document) (*Policy, error) {
	p := &Policy{
		Document: d,
		exact:    map[string][]int{},
		denied:   map[string]int{},
		chains:   newChainCache(),
	}
	if p.Issuers == nil {
		p.Issuers = []Issuer{}
	}
	if p.Subjects == nil {
		p.Subjects = []statement.Extractor{}
	}
	for _, step := range []func() error{
		p.checkHead, p.compileOperators, p.compileIssuers, p.checkKeyIDs, p.checkNames, p.compileDeny, p.checkSubjects, p.checkRest, p.nameRules,
	} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (p *Policy) checkHead() error {
	if p.Version != 1 {
		return wrong("version", "%d is not known here; this release reads version 1", p.Version)
	}
	if p.Threshold != 1 {
		return wrong("threshold", "%d operator signatures cannot be checked by this release; only 1 can", p.Threshold)
	}
	return nil
}

func (p *Policy) compileOperators() error {
	if len(p.Operators) == 0 {
		return wrong("operators", "none; without one no policy could ever follow this one")
	}
	for i, o := range p.Operators {
		at := fmt.Sprintf("operators[%d]", i)
		k, err := pin(at, o.Key, o.Kid)
		if err != nil {
			return err
		}
		for _, other := range p.operators {
			if other.names(k.kid) {
				return wrong(at+".kid", "%s is also that of %s", KeyID(k.kid), other.path)
			}
		}
		p.operators = append(p.operators, k)
	}
	return nil
}

func (p *Policy) compileIssuers() error {
	for i, doc := range p.Issuers {
		r := &rule{Issuer: doc, path: fmt.Sprintf("issuers[%d]", i)}
		if err := p.compileIssuer(r); err != nil {
			return err
		}
		p.rules = append(p.rules, r)
		if r.pattern != nil {
			p.patterns = append(p.patterns, i)
		} else {
			p.exact[r.Iss] = append(p.exact[r.Iss], i)
		}
	}
	return nil
}

func (p *Policy) compileIssuer(r *rule) (err error) {
	switch {
	case (r.Iss == "") == (r.Pattern == ""):
		return wrong(r.path, "an issuer has either iss or pattern")
	case (r.Key == nil) == (r.X509 == nil):
		return wrong(r.path, "an issuer is known either by key or by x509")
	case r.Pattern != "" && r.X509 == nil:
		return wrong(r.path+".pattern", "a pinned key speaks for one issuer; name it with iss")
	case r.Key == nil && r.Kid != nil:
		return wrong(r.path+".kid", "belongs to a pinned key; certificates have none")
	}
	if r.Pattern != "" {
		if r.pattern, err = compilePattern(r.Pattern); err != nil {
			return &fieldError{r.path + ".pattern", err}
		}
	} else if !printable(r.Iss) || utf8.RuneCountInString(r.Iss) > statement.MaxIssuer {
		return wrong(r.path+".iss", "%s is not printable text of at most %d characters", quote(r.Iss), statement.MaxIssuer)
	}
	if r.by, err = newSource(r); err != nil {
		return err
	}
	for i, t := range r.MediaTypes {
		if err := checkMediaType(t); err != nil {
			return &fieldError{fmt.Sprintf("%s.mediaTypes[%d]", r.path, i), err}
		}
	}
	for i, glob := range r.Repositories {
		if err := checkGlob(glob); err != nil {
			return &fieldError{fmt.Sprintf("%s.repositories[%d]", r.path, i), err}
		}
	}
	switch r.Visibility {
	case "":
		r.private = p.Visibility == Private
	case Public, Private:
		r.private = r.Visibility == Private
	default:
		return wrong(r.path+".visibility", "%s; want %s or %s", quote(string(r.Visibility)), Public, Private)
	}
	return nil
}

// compilePattern refuses what is not anchored at both ends, whatever it looks
// like: the parsed expression decides, so that ^a|b$ and (?m)^a$ are refused.
func compilePattern(source string) (*regexp.Regexp, error) {
	if len(source) > maxPattern {
		return nil, fmt.Errorf("longer than %d bytes", maxPattern)
	}
	re, err := syntax.Parse(source, syntax.Perl)
	if err != nil {
		return nil, err
	}
	n := len(re.Sub)
	if re.Op != syntax.OpConcat || n < 2 || re.Sub[0].Op != syntax.OpBeginText || re.Sub[n-1].Op != syntax.OpEndText {
		return nil, fmt.Errorf("%s is not anchored; write ^…$ around the whole expression", quote(source))
	}
	return regexp.Compile(source)
}

func checkGlob(glob string) error {
	if _, err := path.Match(glob, ""); err != nil || !printable(glob) {
		return fmt.Errorf("%s is no glob; write a name, with * for what may vary between two slashes", quote(glob))
	}
	return nil
}

func checkMediaType(t string) error {
	name, params, err := mime.ParseMediaType(t)
	switch {
	case err != nil || name != t || len(params) > 0 || !strings.Contains(t, "/"):
		return fmt.Errorf("%s; write a media type in lower case and without parameters", quote(t))
	case operatorsType(t):
		return fmt.Errorf("%s is for operators only", t)
	}
	return nil
}

// nameRules is the last step: until then a rule is called by its place, which
// is where its errors are.
func (p *Policy) nameRules() error {
	seen := map[string]bool{}
	for _, r := range p.rules {
		switch {
		case r.Name == "":
			continue
		case !ruleName.MatchString(r.Name) || len(r.Name) > 64:
			return wrong(r.path+".name", "%s; want lower-case letters, digits and single hyphens, at most 64", quote(r.Name))
		case seen[r.Name]:
			return wrong(r.path+".name", "%s is also that of another issuer", r.Name)
		}
		seen[r.Name] = true
		r.path = r.Name
		if r.key != nil {
			r.key.path = r.Name
		}
	}
	return nil
}

// ruleName never looks like a place.
var ruleName = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)

// checkKeyIDs: an issuer's kid names one key. Several rules may name the same.
func (p *Policy) checkKeyIDs() error {
	for _, rules := range p.exact {
		seen := map[string]*rule{}
		for _, i := range rules {
			r := p.rules[i]
			if r.key == nil {
				continue
			}
			first, ok := seen[string(r.key.kid)]
			if !ok {
				seen[string(r.key.kid)] = r
			} else if first.key.thumbprint != r.key.thumbprint {
				return wrong(r.path+".kid", "%s is also that of another key, in %s", KeyID(r.key.kid), first.path)
			}
		}
	}
	return nil
}

// checkNames: one leaf speaks as one issuer. Without `san:` it does by itself,
// for the leaf then names its iss. A name given by `san:` must be nobody else's.
func (p *Policy) checkNames() error {
	for _, r := range p.rules {
		if r.certs == nil || r.X509.SAN == "" {
			continue
		}
		for _, other := range p.rules {
			if other.certs == nil || other.Iss == r.Iss || !r.certs.sharesRoot(other.certs) {
				continue
			}
			if other.pattern != nil && r.X509.SAN == r.Iss {
				continue // iss itself: this rule hides the pattern
			}
			if other.certs.admitsName(other, r.certs.san) {
				return wrong(r.path+".x509.san", "%s under the same root also speaks for %s", quote(r.X509.SAN), other.path)
			}
		}
	}
	return nil
}

func (p *Policy) compileDeny() error {
	for i, iss := range p.Deny {
		if !printable(iss) {
			return wrong(fmt.Sprintf("deny[%d]", i), "%s is not printable text", quote(iss))
		}
		if _, ok := p.denied[iss]; !ok {
			p.denied[iss] = i
		}
	}
	return nil
}

func (p *Policy) checkSubjects() error {
	for i, e := range p.Subjects {
		if e != statement.ExtractInToto && e != statement.ExtractSubject {
			return wrong(fmt.Sprintf("subjects[%d]", i), "%s; want %s or %s", quote(string(e)), statement.ExtractInToto, statement.ExtractSubject)
		}
		if slices.Contains(p.Subjects[:i], e) {
			return wrong(fmt.Sprintf("subjects[%d]", i), "%s is there twice", e)
		}
	}
	if p.RequireSubject && len(p.Subjects) == 0 {
		return wrong("requireSubject", "no extractor in subjects could ever find one")
	}
	return nil
}

// maxRepositoryName is what clients leave for host and name together.
const maxRepositoryName = 255

// ValidRepository says whether name is a <name> of the OCI distribution
// specification ("Pulling manifests"), of a length that clients can use.
func ValidRepository(name string) bool {
	return len(name) <= maxRepositoryName && repositoryName.MatchString(name)
}

var repositoryName = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)

func (p *Policy) checkRest() error {
	for i, m := range p.Document.Repositories {
		at := fmt.Sprintf("repositories[%d]", i)
		if err := checkGlob(m.Match); err != nil {
			return &fieldError{at + ".match", err}
		}
		if !ValidRepository(m.To) {
			return wrong(at+".to", "%s is no repository name", quote(m.To))
		}
	}
	if p.Visibility != Public && p.Visibility != Private {
		return wrong("visibility", "%s; want %s or %s", quote(string(p.Visibility)), Public, Private)
	}
	if age := time.Duration(p.Limits.MaxAge); age < 0 || age%time.Second != 0 {
		return wrong("limits.maxAge", "%s; want whole seconds, or nothing for no limit", age)
	}
	return nil
}

// checkIssuerURI: SPEC RFC 9943 §6: with x5t or x5chain in the protected
// header, iss MUST be a StringOrURI that is a URI.
func checkIssuerURI(iss string) error {
	u, err := url.Parse(iss)
	if err != nil || u.Scheme == "" || u.Host == "" && u.Path == "" && u.Opaque == "" || strings.ContainsAny(iss, " <>\"{}|\\^`") {
		return fmt.Errorf("iss %s is no URI, which an issuer known by certificates must be", quote(iss))
	}
	return nil
}
