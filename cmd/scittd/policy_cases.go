package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v4"

	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/statement"
)

// policyFile and casesFolder are what `policy test` looks for in a folder.
const (
	policyFile  = "policy.yaml"
	casesFolder = "cases"
)

// errFailed marks that something was tried and did not do what it should.
var errFailed = errors.New("failed")

func policyTest(p process) *cobra.Command {
	return &cobra.Command{
		Use:   "test FOLDER",
		Short: "Judge statements by a policy and compare with what is expected",
		Long: `Judge every case of a folder by its policy.yaml, offline. A case is a file
cases/NAME.yaml; its statement is cases/NAME.cose, or is signed on the spot with a
key that the case names:

  want: deny                     # or allow
  rule: release.mediaTypes       # the rule that decides; as much of it as matters
  time: 2026-11-21T12:00:00Z     # of registration; absent: now
  sign: {key: ../example.pem, iss: https://wabbit.example, sub: app@sha256:…,
         mediaType: application/spdx+json, payload: '{}', iat: 2026-11-21T11:59:00Z}
  history:                       # what is in the log already, oldest first
    - sign: {…}

File names are relative to the case. Whatever does not come out as expected is named
with the line of the policy that decided.`,
		Example: "  scittd policy test deploy/policies/strict-release",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			results, err := tryPolicy(cmd.Context(), args[0])
			if err != nil {
				return fmt.Errorf("%w: %w", errConfig, err)
			}
			table := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
			failures := 0
			for _, r := range results {
				if r.show(table); !r.passed() {
					failures++
				}
			}
			if err := table.Flush(); err != nil {
				return err
			}
			if failures > 0 {
				return fmt.Errorf("%w: %d of %d cases", errFailed, failures, len(results))
			}
			return nil
		},
	}
}

// tried is what came out of a case.
type tried struct {
	name string
	policyCase
	decision policy.Decision
	refusal  *policy.Refusal // of the policy or, at its place, of the log
	file     string          // of the policy
}

func (t tried) outcome() string {
	if t.refusal != nil {
		return "deny"
	}
	return "allow"
}

func (t tried) rule() string {
	if t.refusal != nil {
		return t.refusal.Rule
	}
	return t.decision.Rule
}

func (t tried) passed() bool { return t.outcome() == t.Want && names(t.Rule, t.rule()) }

// names reports whether rule is the one that the case names, or lies inside it.
func names(wanted, rule string) bool {
	rest, ok := strings.CutPrefix(rule, wanted)
	return wanted == "" || ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
}

func (t tried) show(table *tabwriter.Writer) {
	if t.passed() {
		fmt.Fprintf(table, "PASS\t%s\t%s\trule %s\n", t.name, t.outcome(), t.rule())
		return
	}
	got := fmt.Sprintf("want %s, got %s", t.Want, t.outcome())
	if t.outcome() == t.Want {
		got = fmt.Sprintf("%s, want rule %s", t.Want, t.Rule)
	}
	place := t.file
	if line := policy.Line(t.file, t.rule()); line > 0 {
		place = fmt.Sprintf("%s:%d", t.file, line)
	}
	fmt.Fprintf(table, "FAIL\t%s\t%s\trule %s\t%s\n", t.name, got, t.rule(), place)
	if t.refusal != nil {
		fmt.Fprintf(table, "\t%s\n", t.refusal.Reason)
	}
}

// tryPolicy judges every case of a folder, in the order of their names.
func tryPolicy(ctx context.Context, folder string) ([]tried, error) {
	file := filepath.Join(folder, policyFile)
	p, err := policy.ReadYAML(file)
	if err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(folder, casesFolder, "*.yaml"))
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s has no cases: write %s", folder, filepath.Join(folder, casesFolder, "NAME.yaml"))
	}
	slices.SortFunc(files, func(a, b string) int { return cmp.Compare(caseName(a), caseName(b)) })
	var all []tried
	for _, at := range files {
		c, err := readCase(at)
		if err != nil {
			return nil, err
		}
		t, err := c.try(ctx, p)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", at, err)
		}
		t.name, t.file = caseName(at), file
		all = append(all, t)
	}
	return all, nil
}

func caseName(file string) string { return strings.TrimSuffix(filepath.Base(file), ".yaml") }

// policyCase is a file of a folder of cases.
type policyCase struct {
	Want      string         `yaml:"want"` // allow or deny
	Rule      string         `yaml:"rule"` // that decides; absent: any
	Time      time.Time      `yaml:"time"` // of registration; absent: now
	Said      said           `yaml:",inline"`
	History   []pastSaid     `yaml:"history"` // what is in the log already, oldest first
	Materials []caseMaterial `yaml:"materials"`
}

// said is a statement: a file, or what to sign.
type said struct {
	Statement string  `yaml:"statement"`
	Sign      *toSign `yaml:"sign"`
	Payload   string  `yaml:"payload"` // file with the payload of a detached statement
	dir       string  // that names are relative to
}

type pastSaid struct {
	Said    said `yaml:",inline"`
	Private bool `yaml:"private"`
}

// caseMaterial is a document that a service would have fetched, or evidence.
type caseMaterial struct {
	Kind   string `yaml:"kind"`
	Source string `yaml:"source"`
	File   string `yaml:"file"`
}

// toSign is a statement as people describe it.
type toSign struct {
	Key         string      `yaml:"key"` // private key, PEM
	Kid         string      `yaml:"kid"` // absent: the thumbprint of the key, where there is no chain
	Chain       string      `yaml:"chain"`
	Unprotected bool        `yaml:"unprotected"` // the chain; x5t stays protected
	Iss         string      `yaml:"iss"`
	Sub         string      `yaml:"sub"`
	MediaType   string      `yaml:"mediaType"`
	Payload     string      `yaml:"payload"`     // the text itself
	PayloadFile string      `yaml:"payloadFile"` // or a file
	Hash        bool        `yaml:"hash"`        // sign the SHA-256 of the payload as hash envelope
	Iat         time.Time   `yaml:"iat"`
	Nbf         time.Time   `yaml:"nbf"`
	Exp         time.Time   `yaml:"exp"`
	Claims      map[any]any `yaml:"claims"`
}

func readCase(file string) (policyCase, error) {
	var c policyCase
	b, err := os.ReadFile(file)
	if err != nil {
		return c, err
	}
	if err := yaml.Load(b, &c, yaml.WithKnownFields()); err != nil {
		return c, fmt.Errorf("%s: %w", file, err)
	}
	if c.Want != "allow" && c.Want != "deny" {
		return c, fmt.Errorf("%s: want is %q; write allow or deny", file, c.Want)
	}
	if c.Time.IsZero() {
		c.Time = time.Now().UTC().Truncate(time.Second)
	}
	if c.Said.Statement == "" && c.Said.Sign == nil {
		c.Said.Statement = caseName(file) + ".cose"
	}
	c.Said.dir = filepath.Dir(file)
	for i := range c.History {
		c.History[i].Said.dir = c.Said.dir
	}
	return c, nil
}

// try judges the case as a service would: by the policy, then at its place.
func (c policyCase) try(ctx context.Context, p *policy.Policy) (tried, error) {
	t := tried{policyCase: c}
	s, err := c.Said.statement()
	if err != nil {
		return t, err
	}
	var with []policy.Material
	for i, m := range c.Materials {
		body, err := os.ReadFile(filepath.Join(c.Said.dir, m.File))
		if err != nil {
			return t, fmt.Errorf("materials[%d]: %w", i, err)
		}
		with = append(with, policy.Material{Kind: m.Kind, Source: m.Source, Body: body})
	}
	t.decision = p.Evaluate(s, c.Time, with...)
	if t.refusal = t.decision.Refusal; t.refusal != nil || !t.decision.Conditional {
		return t, nil
	}
	var log caseLog
	for i, past := range c.History {
		s, err := past.Said.statement()
		if err != nil {
			return t, fmt.Errorf("history[%d]: %w", i, err)
		}
		log = append(log, policy.Past{Index: uint64(i), Private: past.Private, Statement: s})
	}
	t.refusal, err = p.Settle(ctx, s, t.decision, log)
	return t, err
}

func (s said) statement() (*statement.Statement, error) {
	b, err := s.bytes()
	if err != nil {
		return nil, err
	}
	parsed, err := statement.Parse(b)
	if err != nil || s.Payload == "" {
		return parsed, err
	}
	payload, err := os.ReadFile(filepath.Join(s.dir, s.Payload))
	if err != nil {
		return nil, err
	}
	return parsed.WithPayload(statement.SHA256(payload), payload)
}

func (s said) bytes() ([]byte, error) {
	switch {
	case s.Sign != nil && s.Statement != "":
		return nil, errors.New("it has both a statement and something to sign")
	case s.Sign != nil:
		return s.Sign.sign(s.dir)
	case s.Statement == "":
		return nil, errors.New("it has no statement: name a file, or say what to sign")
	}
	return os.ReadFile(filepath.Join(s.dir, s.Statement))
}

func (t toSign) sign(dir string) ([]byte, error) {
	read := func(name string) ([]byte, error) { return os.ReadFile(filepath.Join(dir, name)) }
	text, err := read(t.Key)
	if err != nil {
		return nil, fmt.Errorf("sign.key: %w", err)
	}
	key, err := cose.ParsePrivatePEM(text)
	if err != nil {
		return nil, fmt.Errorf("sign.key: %s: %w", t.Key, err)
	}
	payload := []byte(t.Payload)
	if t.PayloadFile != "" {
		if payload, err = read(t.PayloadFile); err != nil {
			return nil, fmt.Errorf("sign.payloadFile: %w", err)
		}
	}
	template := statement.Template{
		Issuer: t.Iss, Subject: t.Sub, ContentType: t.MediaType, Payload: payload, IssuedAt: t.Iat, NotBefore: t.Nbf, Expires: t.Exp, Claims: t.Claims,
	}
	if t.Hash {
		const sha256Hash = -16 // RFC 9054
		sum := sha256.Sum256(payload)
		template.HashAlg, template.Payload = sha256Hash, sum[:]
	}
	if t.Kid != "" {
		template.KeyID = []byte(t.Kid)
	}
	if t.Chain != "" {
		text, err := read(t.Chain)
		if err != nil {
			return nil, fmt.Errorf("sign.chain: %w", err)
		}
		template.ChainUnprotected = t.Unprotected
		for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
			template.Chain = append(template.Chain, block.Bytes)
		}
	}
	signed, err := statement.Sign(template, key)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	return signed, nil
}

// caseLog is a log that a case describes.
type caseLog []policy.Past

func (l caseLog) Past(_ context.Context, q policy.PastQuery, limit int) ([]policy.Past, error) {
	var found []policy.Past
	for _, past := range slices.Backward(l) {
		fits, err := fitsPast(q, past.Statement)
		if err != nil {
			return nil, err
		}
		if fits && len(found) < limit {
			found = append(found, past)
		}
	}
	return found, nil
}

func fitsPast(q policy.PastQuery, s *statement.Statement) (bool, error) {
	for _, c := range []struct{ want, is string }{
		{q.Issuer, s.Issuer}, {q.Subject, s.Subject}, {q.MediaType, s.MediaType()}, {q.PredicateType, s.PredicateType()}, {string(q.Evidence), string(s.Evidence())},
	} {
		if c.want != "" && c.want != c.is {
			return false, nil
		}
	}
	artifacts, err := s.Artifacts(policy.Defaults().Subjects)
	return q.Artifact == "" || slices.Contains(artifacts, q.Artifact), err
}
