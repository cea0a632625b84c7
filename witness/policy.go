package witness

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// maxWitnesses keeps a cosigned note within the hundred signatures that note
// parsers take.
const maxWitnesses = 64

// maxPolicy is how many bytes a policy may have.
const maxPolicy = 1 << 20

// Policy says which witnesses there are and whose cosignatures are a quorum.
type Policy struct {
	Witnesses []*Witness // all that it names, in its order
	logs      []note.Verifier
	quorum    quorum
}

// quorum is met by some sets of witnesses.
type quorum interface {
	met(cosigned func(*Witness) bool) bool
}

// group is met when at least need of its members are; of none, always.
type group struct {
	need    int
	members []quorum
}

func (g group) met(cosigned func(*Witness) bool) bool {
	met := 0
	for _, m := range g.members {
		if m.met(cosigned) {
			met++
		}
	}
	return met >= g.need
}

// met by its own cosignature: a single witness may be a quorum.
func (w *Witness) met(cosigned func(*Witness) bool) bool { return cosigned(w) }

// Asked are the witnesses that have a URL.
func (p *Policy) Asked() []*Witness {
	var asked []*Witness
	for _, w := range p.Witnesses {
		if w.url != "" {
			asked = append(asked, w)
		}
	}
	return asked
}

// None: the policy asks for no cosignature. They are welcome, and nothing is
// held back for want of one.
func (p *Policy) None() bool { return p.quorum.met(func(*Witness) bool { return false }) }

// Checkpoint is what a verified checkpoint says.
type Checkpoint struct {
	Origin    string
	Size      uint64
	Root      [32]byte
	Witnesses []string // who of the policy has cosigned it
}

// Open verifies a checkpoint: signed by log, and cosigned by a quorum. A nil log
// is any of those that the policy names.
func (p *Policy) Open(signed []byte, log note.Verifier) (Checkpoint, error) {
	logs := p.logs
	if log != nil {
		logs = []note.Verifier{log}
	}
	err := errors.New("the policy names no log")
	for _, l := range logs {
		if err = signedBy(signed, l); err == nil {
			break
		}
	}
	if err != nil {
		return Checkpoint{}, fmt.Errorf("checkpoint: %w", err)
	}
	cp, err := parseCheckpoint(signed)
	if err != nil {
		return Checkpoint{}, err
	}
	c := Checkpoint{Origin: cp.origin, Size: cp.size, Root: cp.root}
	for _, w := range p.Witnesses {
		if _, err := note.Open(signed, note.VerifierList(w.verifier)); err == nil {
			c.Witnesses = append(c.Witnesses, w.name)
		}
	}
	if !p.quorum.met(func(w *Witness) bool { return slices.Contains(c.Witnesses, w.name) }) {
		return Checkpoint{}, fmt.Errorf("checkpoint: %d cosignatures of witnesses, which are no quorum", len(c.Witnesses))
	}
	return c, nil
}

// ParsePolicy reads a C2SP tlog-policy:
//
//	log <vkey> [<url>]
//	witness <name> <vkey> [<url>]
//	group <name> all|any|<k> <name>...
//	quorum <name>|none
//
// A witness that is to be asked has a URL: its submission prefix.
func ParsePolicy(text []byte) (*Policy, error) {
	if len(text) > maxPolicy {
		return nil, fmt.Errorf("witness policy: more than %d bytes", maxPolicy)
	}
	// SPEC C2SP tlog-policy: the only control characters are tab and newline.
	if bytes.ContainsFunc(text, func(r rune) bool { return r < ' ' && r != '\t' && r != '\n' || r == 0x7f }) {
		return nil, errors.New("witness policy: control characters other than tab and newline")
	}
	p := policyParser{policy: &Policy{}, named: map[string]quorum{}, member: map[string]bool{}, keys: map[string]bool{}}
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		items := strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == '\t' || r == '\n' })
		if len(items) == 0 || strings.HasPrefix(items[0], "#") {
			continue
		}
		if err := p.line(items[0], items[1:]); err != nil {
			return nil, fmt.Errorf("witness policy: line %d: %w", n, err)
		}
	}
	if p.policy.quorum == nil {
		return nil, errors.New("witness policy: no quorum line")
	}
	return p.policy, nil
}

// policyParser is what the lines read so far have defined.
type policyParser struct {
	policy *Policy
	named  map[string]quorum // witnesses and groups share their names
	member map[string]bool   // names that are in a group already
	keys   map[string]bool   // public keys, of logs and of witnesses
}

func (p *policyParser) line(keyword string, items []string) error {
	switch {
	case keyword == "log" && (len(items) == 1 || len(items) == 2):
		return p.log(items[0])
	case keyword == "witness" && (len(items) == 2 || len(items) == 3):
		return p.witness(items[0], items[1], strings.Join(items[2:], ""))
	case keyword == "group" && len(items) >= 3:
		return p.group(items[0], items[1], items[2:])
	case keyword == "quorum" && len(items) == 1:
		return p.quorum(items[0])
	}
	if slices.Contains([]string{"log", "witness", "group", "quorum"}, keyword) {
		return fmt.Errorf("%s with %d items", keyword, len(items))
	}
	return fmt.Errorf("%.80q is none of log, witness, group and quorum", keyword)
}

func (p *policyParser) log(vkey string) error {
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		return fmt.Errorf("log %.80q: %w", vkey, err)
	}
	p.policy.logs = append(p.policy.logs, verifier)
	return p.once("log", vkey[strings.LastIndex(vkey, "+")+1:])
}

// once refuses a second line with a key.
//
// SPEC C2SP tlog-policy: duplicate logs and witnesses, which are those of the
// same public key, are not allowed.
func (p *policyParser) once(keyword, key string) error {
	if p.keys[keyword+key] {
		return fmt.Errorf("this %s is listed twice", keyword)
	}
	p.keys[keyword+key] = true
	return nil
}

func (p *policyParser) witness(name, vkey, url string) error {
	w, err := New(name, vkey, url)
	if err != nil {
		return fmt.Errorf("witness %.80q: %w", name, err)
	}
	_, key, err := parseKey(vkey)
	if err != nil {
		return err
	}
	if err := p.once("witness", key); err != nil {
		return err
	}
	if len(p.policy.Witnesses) == maxWitnesses {
		return fmt.Errorf("more than %d witnesses", maxWitnesses)
	}
	p.policy.Witnesses = append(p.policy.Witnesses, w)
	return p.define(name, w)
}

func (p *policyParser) define(name string, q quorum) error {
	if _, taken := p.named[name]; taken || name == "none" {
		return fmt.Errorf("the name %.80q is taken", name)
	}
	p.named[name] = q
	return nil
}

// group defines one.
//
// SPEC C2SP tlog-policy: members are defined on preceding lines, and each name
// is in one group at most; 1 <= k <= n.
func (p *policyParser) group(name, threshold string, names []string) error {
	g := group{}
	for _, m := range names {
		q, ok := p.named[m]
		if !ok {
			return fmt.Errorf("nothing above is called %.80q", m)
		}
		if p.member[m] {
			return fmt.Errorf("%.80q is in a group already", m)
		}
		p.member[m] = true
		g.members = append(g.members, q)
	}
	switch threshold {
	case "any":
		g.need = 1
	case "all":
		g.need = len(names)
	default:
		k, err := strconv.ParseUint(threshold, 10, 16)
		if err != nil || k < 1 || k > uint64(len(names)) {
			return fmt.Errorf("threshold %.80q is none of all, any and 1 to %d", threshold, len(names))
		}
		g.need = int(k)
	}
	return p.define(name, g)
}

func (p *policyParser) quorum(name string) error {
	q, ok := p.named[name]
	switch {
	case p.policy.quorum != nil:
		return errors.New("a second quorum line")
	case name == "none":
		p.policy.quorum = group{}
	case !ok:
		return fmt.Errorf("nothing above is called %.80q", name)
	default:
		p.policy.quorum = q
	}
	return nil
}
