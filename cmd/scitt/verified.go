package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/scittd/scittd/client"
	"github.com/scittd/scittd/statement"
)

// verified is what verify reports.
type verified struct {
	Verified bool   `json:"verified"`
	Subject  string `json:"subject,omitempty"`

	// The two questions of a relying party: is there a receipt that fits the
	// statement, and were the artifact's own bytes opened and do they match?
	StatementTransparent bool `json:"statementTransparent"`
	ArtifactTransparent  bool `json:"artifactTransparent"`

	Statements []verdict  `json:"statements"`
	Required   []required `json:"required"`
	NotChecked []string   `json:"notChecked"`

	opened bool // the subject's bytes were read here
}

// verdict is that on one statement, by the file or entry it came from.
type verdict struct {
	From string           `json:"from"`
	Via  statement.Digest `json:"via,omitempty"` // image index that lists the subject, and that the claim is about
	client.Verdict
}

// required is one required claim with what was found.
type required struct {
	client.RequiredClaim
	Got int `json:"got"`
}

func newVerified(about subject, wanted []client.RequiredClaim) verified {
	all := []required{}
	for _, claim := range wanted {
		all = append(all, required{RequiredClaim: claim})
	}
	return verified{Subject: string(about.digest), Required: all, Statements: []verdict{}, NotChecked: []string{}, opened: about.opened}
}

func (r *verified) add(c claim, v client.Verdict) {
	if gone(c.evidence) {
		if i := slices.Index(v.NotChecked, client.EvidenceUnchecked); i >= 0 {
			v.NotChecked[i] = "evidence bytes: not checked (" + c.evidence.State + ")"
		}
	}
	r.Statements = append(r.Statements, verdict{c.name, c.via, v})
	for _, open := range v.NotChecked {
		if !slices.Contains(r.NotChecked, open) {
			r.NotChecked = append(r.NotChecked, open)
		}
	}
	if !v.Verified {
		return
	}
	for i := range r.Required {
		if t := r.Required[i].Type; t == v.Signed.MediaType || t == strings.ToLower(v.Signed.PredicateType) {
			r.Required[i].Got++
		}
	}
}

// judge sets the verdict on the whole, and returns why it is not good. About a
// subject, claims of issuers who were not asked for say nothing, good or bad;
// of files, each one was asked for.
func (r *verified) judge() error {
	bySubject := r.Subject != ""
	count := map[string]int{}
	for _, v := range r.Statements {
		class := v.Failure()
		if !v.Passed("issuer") && (bySubject || class == "") {
			class = client.FailUntrusted
		}
		count[class]++
	}
	all := len(r.Statements)
	switch {
	case count[client.FailInvalid] > 0:
		return fail(exitInvalid, "%d of %d statements are invalid", count[client.FailInvalid], all)
	case count[client.FailUntrusted] == all || count[client.FailUntrusted] > 0 && !bySubject:
		f := fail(exitUntrusted, "%d of %d statements are not vouched for by anyone trusted here", count[client.FailUntrusted], all)
		for _, issuer := range r.strangers() {
			f.line("Found", "claims by %s, who was not asked for (--issuer)", issuer)
		}
		if r.unpinned() {
			f.try("scitt trust init URL pins the keys of a service that you believe")
		}
		return f
	case count[""] == 0 || count[client.FailUnmet] > 0 && !bySubject:
		return fail(exitUnmet, "%d of %d statements do not meet what was asked for", count[client.FailUnmet], all)
	}
	var short []string
	for _, need := range r.Required {
		if need.Got < need.Want {
			short = append(short, fmt.Sprintf("%s %d of %d", need.Type, need.Got, need.Want))
		}
	}
	if len(short) > 0 {
		return fail(exitUnmet, "required and not found: %s", strings.Join(short, ", "))
	}
	r.Verified, r.StatementTransparent = true, true
	for _, v := range r.Statements {
		if v.Verified && r.opened && v.Passed("artifact") {
			r.ArtifactTransparent = true
		}
	}
	return nil
}

// unpinned says whether some claim came without a receipt of a pinned service.
func (r *verified) unpinned() bool {
	return slices.ContainsFunc(r.Statements, func(v verdict) bool { return v.Receipt == nil })
}

// strangers are the issuers of claims who were not asked for.
func (r *verified) strangers() []string {
	var all []string
	for _, v := range r.Statements {
		if v.Failure() != "" && !v.Passed("issuer") && v.Signed.Issuer != "" && !slices.Contains(all, v.Signed.Issuer) {
			all = append(all, v.Signed.Issuer)
		}
	}
	return all
}

func (r verified) text(w io.Writer) {
	good := 0
	for i, v := range r.Statements {
		if i > 0 {
			fmt.Fprintln(w)
		}
		if len(r.Statements) > 1 {
			fmt.Fprintln(w, clean(fmt.Sprintf("%s  %s  by %s", v.From, v.Signed.MediaType, v.Signed.Issuer)))
		}
		if v.Via != "" {
			fmt.Fprintf(w, "%-4s  %-12s  %s\n", client.OK, "via index", v.Via)
		}
		for _, c := range v.Checks {
			fmt.Fprintf(w, "%-4s  %-12s  %s\n", c.Status, c.Name, clean(c.Detail))
			if c.Expected != "" || c.Got != "" {
				fmt.Fprintf(w, "      Want: %s\n      Got:  %s\n", clean(c.Expected), clean(c.Got))
			}
		}
		if v.Verified {
			good++
		}
	}
	for _, need := range r.Required {
		status := client.OK
		if need.Got < need.Want {
			status = client.Fail
		}
		fmt.Fprintf(w, "%-4s  %-12s  %s %d of %d\n", status, "require", clean(need.Type), need.Got, need.Want)
	}
	fmt.Fprintf(w, "NOT CHECKED: %s\n", clean(strings.Join(r.NotChecked, ", ")))
	if r.Verified {
		fmt.Fprintf(w, "verified: %d of %d statements\n", good, len(r.Statements))
	}
}
