package main

import (
	"cmp"
	"context"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/scittd/scittd/api/apitype"
	"github.com/scittd/scittd/client"
	"github.com/scittd/scittd/statement"
	"github.com/scittd/scittd/storage"
)

// verification are verify's flags.
type verification struct {
	issuers, prefixes []string
	require           []string
	maxAge            time.Duration
	policy            string
	evidence          string
	witnesses         string
	minWitnesses      int
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
aside; of files, every one must verify. With --offline no socket is opened.

What a release asks for can be kept in its repository: --policy names a YAML file
with the words of the flags, of which any may be left out. Flags add to it; of two
ages the shorter holds.

  issuers: [https://wabbit.example]
  issuerPrefixes: [https://acme.example]
  require:
    - application/spdx+json
    - https://slsa.dev/provenance/v1=2
  maxAge: 720h

Claims that are sound and do not meet it end with exit code 14, a file that is
malformed with 2.`,
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
	f.StringVar(&v.policy, "policy", "", "file of what must be met: issuers, issuerPrefixes, require, maxAge")
	f.StringVar(&v.evidence, "evidence", "", "file to compare with the signed evidence digest; where the payload is detached, to verify the signature over")
	f.StringVar(&v.witnesses, "witnesses", "", "C2SP tlog-policy, a log and its witnesses: claims must be in a checkpoint that a quorum has cosigned")
	f.IntVar(&v.minWitnesses, "min-witnesses", 0, "cosignatures that the checkpoint must have, whatever the quorum is")
	f.BoolVar(&v.offline, "offline", false, "open no socket: files only")
	return cmd
}

// claim is one Transparent Statement to verify.
type claim struct {
	name     string
	raw      []byte
	evidence apitype.Evidence // as the service's index has it; zero for files
	via      statement.Digest // image index that it is about, which lists the subject; "" when it is about that itself
}

func (a *app) verify(ctx context.Context, args []string, v verification) error {
	asked, err := v.requirements()
	if err != nil {
		return err
	}
	trust, err := a.trust()
	if err != nil {
		return err
	}
	verifier := client.Verifier{Trust: trust, MaxAge: asked.MaxAge, Now: time.Now()}
	if v.evidence != "" {
		if verifier.Evidence, _, err = digestFile(v.evidence, "sha256"); err != nil {
			return usage("--evidence: %w", err)
		}
		if verifier.Payload, err = readPayload(v.evidence); err != nil {
			return usage("--evidence: %w", err)
		}
	}
	if err := v.checkWitnesses(); err != nil {
		return err
	}
	claims, about, err := a.claims(ctx, args, v.offline)
	if err != nil {
		return err
	}
	if verifier.Issuers = asked.Issuers; len(verifier.Issuers) == 0 {
		verifier.Issuers = a.contextIssuers(about)
	}
	if len(verifier.Issuers) == 0 {
		return nobodyTrusted(args, claims)
	}
	// Evidence belongs to one of many claims about a subject.
	if about.text != "" && verifier.Evidence != "" {
		claims = withEvidence(claims, verifier.Evidence)
	}
	if verifier.Witnessed, err = a.witnessed(ctx, v, about, claims); err != nil {
		return err
	}
	result := newVerified(about, asked.Claims)
	for _, c := range claims {
		verifier.Artifact = cmp.Or(c.via, about.digest)
		result.add(c, verifier.Verify(c.raw))
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
		via := statement.Digest(e.Via)
		if via != "" && !a.lists(ctx, about, via) {
			a.warn("entry %s is left aside: it is about image index %s, of which nobody here can see that it lists %s", abbreviate(e.EntryID), e.Via, about.digest)
			continue
		}
		claims = append(claims, claim{abbreviate(e.EntryID), raw, e.Evidence, via})
	}
	return claims, about, nil
}

// lists says whether an image index lists the subject, by bytes that have the
// index's digest: the service's word is no proof.
func (a *app) lists(ctx context.Context, about subject, index statement.Digest) bool {
	if about.repo == nil {
		return false
	}
	_, body, err := about.repo.Manifest(ctx, string(index))
	return err == nil && index.Matches(body) && slices.Contains(storage.Listed(body), string(about.digest))
}

// withEvidence keeps the claims that the index gives that evidence, or all when
// there is none: the verdict on each then says what it has instead.
func withEvidence(claims []claim, evidence statement.Digest) []claim {
	var chosen []claim
	for _, c := range claims {
		if c.evidence.Digest == string(evidence) {
			chosen = append(chosen, c)
		}
	}
	if chosen == nil {
		return claims
	}
	return chosen
}

// requirements are those of the file and the flags.
func (v verification) requirements() (client.Requirements, error) {
	if v.maxAge < 0 {
		return client.Requirements{}, usage("--max-age %s is in the future", v.maxAge)
	}
	flags := client.Requirements{MaxAge: v.maxAge}
	for _, issuer := range v.issuers {
		flags.Issuers = append(flags.Issuers, client.IssuerRule{Issuer: issuer})
	}
	prefixes, err := issuerPrefixes(v.prefixes)
	if err != nil {
		return flags, err
	}
	for _, prefix := range prefixes {
		flags.Issuers = append(flags.Issuers, client.IssuerRule{Prefix: prefix})
	}
	for _, text := range v.require {
		c, err := client.ParseRequiredClaim(text)
		if err != nil {
			return flags, usage("--require %w", err)
		}
		flags.Claims = append(flags.Claims, c)
	}
	if v.policy == "" {
		return flags, nil
	}
	file, err := client.ReadRequirements(v.policy)
	if err != nil {
		return flags, usage("--policy: %w", err).try("scitt verify --help shows such a file")
	}
	return file.And(flags), nil
}

// contextIssuers are those of the context whose scope covers the image. They
// count where neither flag nor file names an issuer.
func (a *app) contextIssuers(about subject) []client.IssuerRule {
	var rules []client.IssuerRule
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
