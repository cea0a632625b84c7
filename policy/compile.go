package policy

import (
	"cmp"
	"fmt"
	"mime"
	"net/url"
	"path"
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"
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

	evidence   *guarded     // nil: none is looked at
	conditions []*condition // of the issuer alone
	binding    []*condition // those and the document's: all that bind it
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
		p.checkHead, p.compileOperators, p.compileIssuers, p.checkKeyIDs, p.checkNames, p.compileDeny, p.checkSubjects, p.checkRest, p.compileRules, p.nameRules,
	} {
		if err := step(); err != nil {
			return nil, p.named(err)
		}
	}
	return p, nil
}

// elementPlace is the issuer or rule that a place lies in.
var elementPlace = regexp.MustCompile(`^(issuers|rules)\[(\d+)\](?:\.rules\[(\d+)\])?`)

// named adds to an error at a place what the author calls the issuer or rule there.
func (p *Policy) named(err error) error {
	field, ok := err.(*fieldError)
	if !ok || strings.HasSuffix(field.path, ".name") { // which says it itself
		return err
	}
	at := elementPlace.FindStringSubmatch(field.path)
	if at == nil {
		return err
	}
	name, rules := "", p.Document.Rules
	if i, _ := strconv.Atoi(at[2]); at[1] == "rules" {
		at[3] = at[2]
	} else {
		name, rules = p.Issuers[i].Name, p.Issuers[i].Rules
	}
	if i, err := strconv.Atoi(at[3]); err == nil && rules[i].Name != "" {
		name = rules[i].Name
	}
	if name == "" {
		return err
	}
	return &namedError{field, name}
}

func (p *Policy) checkHead() error {
	if p.Version != 1 {
		return wrong("version", "%d is not known here; this release reads version 1", p.Version)
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
	if n := p.signatories(); p.Threshold < 1 || p.Threshold > n {
		return wrong("threshold", "%d operators have to sign a policy, and %d are listed; want 1 to %d", p.Threshold, n, n)
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
		p.guards = p.guards || r.evidence != nil
		p.published = p.published || r.DID != nil || r.Keys != nil
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
	case len(r.sources()) != 1:
		return wrong(r.path, "an issuer is known by exactly one of key, x509, did, keys, oidc")
	case r.Pattern != "" && (r.Key != nil || r.Keys != nil):
		return wrong(r.path+".pattern", "a key speaks for one issuer; name it with iss")
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
	if err := r.compileEvidence(); err != nil {
		return err
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
	name := func(path, name string) error {
		switch {
		case name == "":
			return nil
		case !ruleName.MatchString(name) || len(name) > 64:
			return wrong(path+".name", "%s; want lower-case letters, digits and single hyphens, at most 64", quote(name))
		case seen[name]:
			return wrong(path+".name", "%s is also that of another issuer or rule", name)
		}
		seen[name] = true
		return nil
	}
	for _, r := range p.rules {
		if err := name(r.path, r.Name); err != nil {
			return err
		}
		for _, c := range r.conditions {
			if err := name(c.path, c.Name); err != nil {
				return err
			}
			c.path = cmp.Or(c.Name, strings.Replace(c.path, r.path, cmp.Or(r.Name, r.path), 1))
		}
		r.path = cmp.Or(r.Name, r.path)
		r.evidence.rename(r.path)
		if r.key != nil {
			r.key.path = r.path
		}
	}
	for _, c := range p.conditions {
		if err := name(c.path, c.Name); err != nil {
			return err
		}
		c.path = cmp.Or(c.Name, c.path)
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
