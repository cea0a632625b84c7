package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Rule is a condition beside the signature. Those of the document bind every
// issuer, those of an Issuer only that one; operators' statements are bound by
// none. A rule that applies holds when all that it demands is met: it has at
// least one demand, those below Message.
//
// Demands up to Identities follow from the statement, the policy and the time.
// CEL sees who signed, too, and runs only once the signature holds, so that
// strangers cannot make it run. Sequence, Newest, Unique and Needs depend on the
// log: they are judged where the entry's place in it is known.
type Rule struct {
	Name    string `json:"name,omitempty" yaml:"name"`       // what refusals call it; absent: its place, as "rules[1]"
	When    *When  `json:"when,omitempty" yaml:"when"`       // absent: always
	Message string `json:"message,omitempty" yaml:"message"` // what somebody who is refused should do

	Deny           bool     `json:"deny,omitempty" yaml:"deny"`                     // whatever it applies to is refused
	Issuers        []string `json:"issuers,omitempty" yaml:"issuers"`               // only these, as exact strings
	Identities     []string `json:"identities,omitempty" yaml:"identities"`         // only issuers that are known so: key, x509, …
	Repositories   []string `json:"repositories,omitempty" yaml:"repositories"`     // what is signed names a repository, and only such; globs
	MediaTypes     []string `json:"mediaTypes,omitempty" yaml:"mediaTypes"`         // only these
	PredicateTypes []string `json:"predicateTypes,omitempty" yaml:"predicateTypes"` // only these; what is no attached in-toto statement has none
	Require        *Require `json:"require,omitempty" yaml:"require"`
	MaxAge         Duration `json:"maxAge,omitempty" yaml:"maxAge"`         // iat is present and not longer ago
	RegisterBy     string   `json:"registerBy,omitempty" yaml:"registerBy"` // claim with the last second in which it may be registered

	CEL string `json:"cel,omitempty" yaml:"cel"` // an expression that must be true

	Sequence *Sequence `json:"sequence,omitempty" yaml:"sequence"`
	Newest   string    `json:"newest,omitempty" yaml:"newest"` // iat is later than before, for the same issuer and: NewestSubject or NewestMediaType
	Unique   string    `json:"unique,omitempty" yaml:"unique"` // UniqueContent
	Needs    []Need    `json:"needs,omitempty" yaml:"needs"`   // what has to be in the log before
}

// When says which statements a rule applies to: those that meet every member
// that is there.
type When struct {
	Issuers        []string `json:"issuers,omitempty" yaml:"issuers"`           // exact strings
	Repositories   []string `json:"repositories,omitempty" yaml:"repositories"` // globs for a repository that the signed bytes name
	MediaTypes     []string `json:"mediaTypes,omitempty" yaml:"mediaTypes"`
	PredicateTypes []string `json:"predicateTypes,omitempty" yaml:"predicateTypes"`
}

// Require are claims that a statement must carry among its signed CWT claims,
// by the names that statement.Claims gives them.
type Require struct {
	Claims []string          `json:"claims,omitempty" yaml:"claims"` // present
	Types  map[string]string `json:"types,omitempty" yaml:"types"`   // present, and text, int, number, bool, bytes, list or map
	Values map[string]string `json:"values,omitempty" yaml:"values"` // present, and this text, or integer or bool when written out
}

// Sequence numbers the statements of an issuer about a subject: Claim is an
// integer, and the one before plus 1, or any greater one. The first is free.
type Sequence struct {
	Claim string `json:"claim" yaml:"claim"`
	Step  string `json:"step,omitempty" yaml:"step"` // StepNext or StepGreater; absent: StepNext
}

// Need is an entry that must be in the log already for every artifact of a
// statement: of one of the types and by one of the issuers, where they are given.
type Need struct {
	Issuers        []string `json:"issuers,omitempty" yaml:"issuers"`
	MediaTypes     []string `json:"mediaTypes,omitempty" yaml:"mediaTypes"`
	PredicateTypes []string `json:"predicateTypes,omitempty" yaml:"predicateTypes"`
}

// What some members of a Rule may say.
const (
	StepNext        = "next"
	StepGreater     = "greater"
	NewestSubject   = "subject"   // for the same issuer and sub
	NewestMediaType = "mediaType" // for the same issuer, sub and media type
	UniqueContent   = "content"   // issuer, sub and payload are new
)

// Bounds of what a rule may ask of the log, per statement.
const (
	maxNeedArtifacts = 16 // artifacts of a statement that needs others
	maxQueries       = 16 // combinations of issuer, media type and predicate type
	maxTypes         = 64 // elements of a list in a rule
	maxRules         = 256
)

// condition is a Rule made ready to judge by.
type condition struct {
	Rule
	path       string // "rules[2]"; its name when it has one
	of         *rule  // whose own it is; nil of the document's
	expression *expression
}

// compileRules checks the rules of the document and those of every issuer.
func (p *Policy) compileRules() error {
	var err error
	if p.conditions, err = p.compileList("rules", p.Document.Rules); err != nil {
		return err
	}
	for _, r := range p.rules {
		for i, t := range r.PredicateTypes {
			if err := checkPredicateType(t); err != nil {
				return &fieldError{fmt.Sprintf("%s.predicateTypes[%d]", r.path, i), err}
			}
		}
		if r.Require != nil {
			c := &condition{Rule: Rule{Require: r.Require}, path: r.path}
			if err := c.checkRequire(); err != nil {
				return err
			}
			r.conditions = append(r.conditions, c)
		}
		own, err := p.compileList(r.path+".rules", r.Issuer.Rules)
		if err != nil {
			return err
		}
		for _, c := range own {
			if c.of = r; c.Sequence == nil && c.Newest == "" {
				continue
			}
			if w := c.types(); max(1, len(w.MediaTypes))*max(1, len(w.PredicateTypes)) > maxQueries {
				return wrong(c.path, "compares with entries of all types of the issuer; at most %d combinations of them are looked for: name fewer in when", maxQueries)
			}
		}
		r.conditions = append(r.conditions, own...)
		r.binding = append(slices.Clip(r.conditions), p.conditions...)
	}
	return nil
}

func (p *Policy) compileList(at string, list []Rule) ([]*condition, error) {
	if len(list) > maxRules {
		return nil, wrong(at, "has %d elements; at most %d are read", len(list), maxRules)
	}
	var all []*condition
	for i, doc := range list {
		c := &condition{Rule: doc, path: fmt.Sprintf("%s[%d]", at, i)}
		if err := c.compile(); err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	return all, nil
}

func (c *condition) compile() error {
	if c.Message != "" && (!printable(c.Message) || len(c.Message) > 1000) {
		return wrong(c.path+".message", "not printable text of at most 1000 bytes")
	}
	if w := c.When; w != nil {
		if len(w.Issuers)+len(w.Repositories)+len(w.MediaTypes)+len(w.PredicateTypes) == 0 {
			return wrong(c.path+".when", "empty; leave it out for a rule that always applies")
		}
		if err := checkLists(c.path+".when", w.Issuers, w.Repositories, w.MediaTypes, w.PredicateTypes); err != nil {
			return err
		}
	}
	if err := checkLists(c.path, c.Issuers, c.Repositories, c.MediaTypes, c.PredicateTypes); err != nil {
		return err
	}
	for i, kind := range c.Identities {
		if !slices.Contains(members, kind) {
			return wrong(fmt.Sprintf("%s.identities[%d]", c.path, i), "%s; want one of %s", quote(kind), strings.Join(members, ", "))
		}
	}
	for _, check := range []func() error{c.checkRequire, c.checkLogged, c.checkNeeds} {
		if err := check(); err != nil {
			return err
		}
	}
	if age := time.Duration(c.MaxAge); age < 0 || age%time.Second != 0 {
		return wrong(c.path+".maxAge", "%s; want whole seconds", age)
	}
	if c.RegisterBy != "" && !claimName(c.RegisterBy) {
		return wrong(c.path+".registerBy", "%s is no name of a claim", quote(c.RegisterBy))
	}
	if !c.demands() {
		return wrong(c.path, "demands nothing; give it deny, issuers, identities, repositories, mediaTypes, predicateTypes, require, maxAge, registerBy, cel, sequence, newest, unique or needs")
	}
	if c.Deny && c.otherwise() {
		return wrong(c.path+".deny", "refuses everything, so that the rule's other demands never count")
	}
	if c.CEL != "" {
		var err error
		if c.expression, err = compileExpression(c.CEL); err != nil {
			return &fieldError{c.path + ".cel", err}
		}
	}
	return nil
}

func (c *condition) demands() bool { return c.Deny || c.otherwise() }

// otherwise reports whether the rule demands anything but denial.
func (c *condition) otherwise() bool {
	return len(c.Issuers)+len(c.Identities)+len(c.Repositories)+len(c.MediaTypes)+len(c.PredicateTypes) > 0 ||
		c.Require != nil || c.MaxAge != 0 || c.RegisterBy != "" || c.CEL != "" || c.dependsOnLog()
}

func (c *condition) dependsOnLog() bool {
	return c.Sequence != nil || c.Newest != "" || c.Unique != "" || len(c.Needs) > 0
}

// checkLists checks the four lists that several members of a rule have.
func checkLists(at string, issuers, repositories, mediaTypes, predicateTypes []string) error {
	for _, list := range []struct {
		member string
		texts  []string
		check  func(string) error
	}{
		{"issuers", issuers, checkExactIssuer},
		{"repositories", repositories, checkGlob},
		{"mediaTypes", mediaTypes, checkMediaType},
		{"predicateTypes", predicateTypes, checkPredicateType},
	} {
		if len(list.texts) > maxTypes {
			return wrong(at+"."+list.member, "has %d elements; at most %d are read", len(list.texts), maxTypes)
		}
		for i, text := range list.texts {
			if err := list.check(text); err != nil {
				return &fieldError{fmt.Sprintf("%s.%s[%d]", at, list.member, i), err}
			}
		}
	}
	return nil
}

func checkExactIssuer(iss string) error {
	if !printable(iss) {
		return fmt.Errorf("%s is not printable text", quote(iss))
	}
	return nil
}

func checkPredicateType(t string) error {
	if !printable(t) {
		return fmt.Errorf("%s is not printable text", quote(t))
	}
	return nil
}

// claimName: what statement.Claims could call a claim.
func claimName(name string) bool { return printable(name) && len(name) <= 255 }

// members are the sources that an issuer can have: how it is known.
var members = []string{"key", "x509", "did", "keys", "oidc"}

// claimTypes are the types that a claim may be asked to have.
var claimTypes = []string{"text", "int", "number", "bool", "bytes", "list", "map"}

func (c *condition) checkRequire() error {
	if c.Require == nil {
		return nil
	}
	at := c.path + ".require"
	if len(c.Require.Claims)+len(c.Require.Types)+len(c.Require.Values) == 0 {
		return wrong(at, "requires nothing; list claims, types or values")
	}
	for i, name := range c.Require.Claims {
		if !claimName(name) {
			return wrong(fmt.Sprintf("%s.claims[%d]", at, i), "%s is no name of a claim", quote(name))
		}
	}
	for _, name := range sortedKeys(c.Require.Types) {
		if kind := c.Require.Types[name]; !claimName(name) || !slices.Contains(claimTypes, kind) {
			return wrong(at+".types", "%s: %s; want one of %s", quote(name), quote(kind), strings.Join(claimTypes, ", "))
		}
	}
	for _, name := range sortedKeys(c.Require.Values) {
		if value := c.Require.Values[name]; !claimName(name) || !printable(value) {
			return wrong(at+".values", "%s: %s is not printable text", quote(name), quote(value))
		}
	}
	return nil
}

// checkLogged checks the demands on the log that have a word or two to say.
func (c *condition) checkLogged() error {
	if q := c.Sequence; q != nil {
		if !claimName(q.Claim) {
			return wrong(c.path+".sequence.claim", "%s is no name of a claim", quote(q.Claim))
		}
		if q.Step != "" && q.Step != StepNext && q.Step != StepGreater {
			return wrong(c.path+".sequence.step", "%s; want %s or %s", quote(q.Step), StepNext, StepGreater)
		}
	}
	if c.Newest != "" && c.Newest != NewestSubject && c.Newest != NewestMediaType {
		return wrong(c.path+".newest", "%s; want %s or %s", quote(c.Newest), NewestSubject, NewestMediaType)
	}
	if c.Unique != "" && c.Unique != UniqueContent {
		return wrong(c.path+".unique", "%s; want %s", quote(c.Unique), UniqueContent)
	}
	return nil
}

func (c *condition) checkNeeds() error {
	queries := 0
	for i, n := range c.Needs {
		at := fmt.Sprintf("%s.needs[%d]", c.path, i)
		if len(n.Issuers)+len(n.MediaTypes)+len(n.PredicateTypes) == 0 {
			return wrong(at, "is met by any entry at all; give it issuers, mediaTypes or predicateTypes")
		}
		if err := checkLists(at, n.Issuers, nil, n.MediaTypes, n.PredicateTypes); err != nil {
			return err
		}
		queries += max(1, len(n.Issuers)) * max(1, len(n.MediaTypes)) * max(1, len(n.PredicateTypes))
	}
	if queries > maxQueries {
		return wrong(c.path+".needs", "has %d combinations of issuer and type; at most %d are looked for", queries, maxQueries)
	}
	if w := c.When; w != nil && (c.Sequence != nil || c.Newest != "") {
		if n := max(1, len(w.MediaTypes)) * max(1, len(w.PredicateTypes)); n > maxQueries {
			return wrong(c.path+".when", "has %d combinations of types; at most %d are looked for where the log is asked", n, maxQueries)
		}
	}
	return nil
}

// types are those of the entries that c applies to: an issuer's own rule sees none
// but those that this element of the issuers admits.
func (c *condition) types() (types When) {
	if c.When != nil {
		types = *c.When
	}
	if c.of != nil && len(types.MediaTypes) == 0 {
		types.MediaTypes = c.of.MediaTypes
	}
	if c.of != nil && len(types.PredicateTypes) == 0 {
		types.PredicateTypes = c.of.PredicateTypes
	}
	return types
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
