package main

import (
	"context"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/scittd/scittd/client"
	"github.com/scittd/scittd/statement"
)

// verification are verify's flags.
type verification struct {
	issuers, prefixes []string
	require           []string
	maxAge            time.Duration
	evidence          string
	offline           bool
}

func verifyCommand(a *app) *cobra.Command {
	var v verification
	cmd := &cobra.Command{
		Use:   "verify SUBJECT|FILE...",
		Short: "Verify signature, receipt and issuer of claims; every check is listed, and what was not checked",
		Long: `Verify Transparent Statements: files, or all that a service has about a subject.
Service keys must be pinned (scitt trust), and only claims of the issuers named
here, or in the context, count. About a subject, other issuers' claims are left
aside; of files, every one must verify. With --offline no socket is opened.`,
		Example: "  scitt verify registry.example/net-monitor:v1 --issuer https://wabbit.example --require application/spdx+json\n  scitt verify claim.cose --offline --trust trust.yaml --issuer https://wabbit.example",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.verify(cmd.Context(), args, v)
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&v.issuers, "issuer", nil, "an issuer whose claims count")
	f.StringArrayVar(&v.prefixes, "issuer-prefix", nil, "claims of all issuers at or below this one count, whole segments")
	f.StringArrayVar(&v.require, "require", nil, "media or predicate type that must be claimed: TYPE or TYPE=N")
	f.DurationVar(&v.maxAge, "max-age", 0, "claims registered longer ago do not count")
	f.StringVar(&v.evidence, "evidence", "", "file to compare with the signed evidence digest")
	f.BoolVar(&v.offline, "offline", false, "open no socket: files only")
	return cmd
}

// claim is one Transparent Statement to verify.
type claim struct {
	name     string
	raw      []byte
	evidence string // its digest, as the service's index has it; "" for files
}

func (a *app) verify(ctx context.Context, args []string, v verification) error {
	wanted, err := requirements(v.require)
	if err != nil {
		return err
	}
	trust, err := a.trust()
	if err != nil {
		return err
	}
	verifier := client.Verifier{Trust: trust, MaxAge: v.maxAge, Now: time.Now()}
	if v.evidence != "" {
		if verifier.Evidence, _, err = digestFile(v.evidence, "sha256"); err != nil {
			return usage("--evidence: %w", err)
		}
	}
	claims, about, err := a.claims(ctx, args, v.offline)
	if err != nil {
		return err
	}
	verifier.Artifact = about.digest
	verifier.Issuers = a.issuerRules(v, about)
	if len(verifier.Issuers) == 0 {
		return nobodyTrusted(args, claims)
	}
	// Evidence belongs to one of many claims about a subject.
	if about.text != "" && verifier.Evidence != "" {
		claims = withEvidence(claims, verifier.Evidence)
	}
	result := newVerified(about, wanted)
	for _, c := range claims {
		result.add(c.name, verifier.Verify(c.raw))
	}
	failure := result.judge()
	if err := a.print("Verification", result, result.text); err != nil {
		return err
	}
	return failure
}

// claims reads files, or fetches what the service has about one subject.
func (a *app) claims(ctx context.Context, args []string, offline bool) ([]claim, subject, error) {
	var claims []claim
	for _, arg := range args {
		raw, err := os.ReadFile(arg)
		if err == nil {
			claims = append(claims, claim{name: arg, raw: raw})
			continue
		}
		if offline {
			return nil, subject{}, usage("--offline verifies files: %w", err).try("scitt fetch %s -o DIR, while there is a network", arg)
		}
		if len(args) > 1 {
			return nil, subject{}, usage("%s is no file; a subject is verified alone", arg)
		}
		return a.claimsAbout(ctx, arg)
	}
	return claims, subject{}, nil
}

func (a *app) claimsAbout(ctx context.Context, text string) ([]claim, subject, error) {
	about, err := a.subject(ctx, text)
	if err != nil {
		return nil, about, err
	}
	service, err := a.serviceFor(ctx, about)
	if err != nil {
		return nil, about, err
	}
	entries, err := entriesAbout(ctx, service, about)
	if err != nil {
		return nil, about, err
	}
	var claims []claim
	for _, e := range entries {
		id, err := statement.ParseID(e.EntryID)
		if err != nil {
			return nil, about, err
		}
		raw, err := service.Transparent(ctx, id)
		if err != nil {
			return nil, about, err
		}
		claims = append(claims, claim{abbreviate(e.EntryID), raw, e.Evidence.Digest})
	}
	return claims, about, nil
}

// withEvidence keeps the claims that the index gives that evidence, or all when
// there is none: the verdict on each then says what it has instead.
func withEvidence(claims []claim, evidence statement.Digest) []claim {
	var chosen []claim
	for _, c := range claims {
		if c.evidence == string(evidence) {
			chosen = append(chosen, c)
		}
	}
	if chosen == nil {
		return claims
	}
	return chosen
}

// issuerRules are those of the flags, else those of the context whose scope
// covers the image.
func (a *app) issuerRules(v verification, about subject) []client.IssuerRule {
	var rules []client.IssuerRule
	for _, issuer := range v.issuers {
		rules = append(rules, client.IssuerRule{Issuer: issuer})
	}
	for _, prefix := range v.prefixes {
		rules = append(rules, client.IssuerRule{Prefix: prefix})
	}
	if len(rules) > 0 {
		return rules
	}
	for _, scoped := range a.context.Issuers {
		if scoped.Covers(about.image.Host + "/" + about.image.Repository) {
			rules = append(rules, client.IssuerRule{Issuer: scoped.Issuer})
		}
	}
	return rules
}

// nobodyTrusted refuses to verify without a rule, and says whose claims exist.
func nobodyTrusted(args []string, claims []claim) error {
	f := fail(exitUntrusted, "no issuer is trusted for %s, so nothing can be verified", args[0])
	count := map[string]int{}
	var order []string
	for _, c := range claims {
		s, err := statement.Parse(c.raw)
		if err != nil {
			continue
		}
		if count[s.Issuer]++; count[s.Issuer] == 1 {
			order = append(order, s.Issuer)
		}
	}
	for _, issuer := range order {
		f.line("Found", "%d by %s", count[issuer], issuer)
	}
	if len(order) > 0 {
		f.try("scitt verify %s --issuer %s", args[0], order[0])
	}
	return f
}

// requirements reads TYPE and TYPE=N.
func requirements(texts []string) ([]required, error) {
	all := []required{}
	for _, text := range texts {
		kind, number := text, "1"
		if i := strings.LastIndexByte(text, '='); i >= 0 {
			kind, number = text[:i], text[i+1:]
		}
		n, err := strconv.Atoi(number)
		if err != nil || n < 1 || kind == "" {
			return nil, usage("--require %q is not TYPE or TYPE=N", text)
		}
		all = append(all, required{Type: strings.ToLower(kind), Want: n})
	}
	return all, nil
}
