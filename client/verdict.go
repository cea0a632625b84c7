package client

import (
	"fmt"
	"time"

	"github.com/scittd/scittd/statement"
)

// Status of a Check.
const (
	OK   = "OK"
	Fail = "FAIL"
	Skip = "SKIP"
)

// Failure classes of a Verdict, worst first.
const (
	FailInvalid   = "invalid"   // a signature, a receipt or bytes do not hold
	FailUntrusted = "untrusted" // nothing is wrong, but nobody believed vouches for it
	FailUnmet     = "unmet"     // sound and trusted, but not what was asked for
)

// Check is one named step of a verdict.
type Check struct {
	Name     string `json:"name"`
	Status   string `json:"status"`         // OK, FAIL, SKIP
	Code     string `json:"code,omitempty"` // failure class
	Detail   string `json:"detail"`
	Expected string `json:"expected,omitempty"`
	Got      string `json:"got,omitempty"`
}

func ok(name, detail string) Check { return Check{Name: name, Status: OK, Detail: detail} }

func failed(name, class, detail string) Check {
	return Check{Name: name, Status: Fail, Code: class, Detail: detail}
}

// against adds what was wanted and what was there.
func (c Check) against(expected, got string) Check {
	c.Expected, c.Got = expected, got
	return c
}

// Verdict is what verifying one Transparent Statement showed, check by check,
// and what it left open. Verified says that no check failed and that a pinned
// key signed a tree with the statement in it. It does not say that the issuer's
// signature was verified here: when its key is not at hand, that check is SKIP
// and stands in NotChecked, and the service's word is all there is.
type Verdict struct {
	Verified   bool         `json:"verified"`
	EntryID    statement.ID `json:"entryId"`
	Checks     []Check      `json:"checks"`
	Signed     Signed       `json:"signed"`
	Receipt    *Accepted    `json:"receipt,omitempty"`
	Unsigned   Unsigned     `json:"unsigned"`
	NotChecked []string     `json:"notChecked"`
}

// Signed is what the issuer says.
type Signed struct {
	Issuer        string           `json:"issuer"`
	Subject       string           `json:"subject"`
	MediaType     string           `json:"mediaType,omitempty"`
	PredicateType string           `json:"predicateType,omitempty"`
	Evidence      statement.Digest `json:"evidence,omitempty"`
	Expires       *time.Time       `json:"expires,omitempty"`
}

// Accepted is what the first good receipt says. Service and RegisteredAt are
// signed. LeafIndex and TreeSize are the receipt's word alone: what is signed is
// the root, and another position can fold to the same root (RFC 9942 §5.2).
type Accepted struct {
	Service      string    `json:"service"`
	LeafIndex    uint64    `json:"leafIndex"`
	TreeSize     uint64    `json:"treeSize"`
	RegisteredAt time.Time `json:"registeredAt,omitzero"`
}

func (a Accepted) String() string {
	text := fmt.Sprintf("leaf %d, tree %d as the receipt says", a.LeafIndex, a.TreeSize)
	if a.RegisteredAt.IsZero() {
		return text
	}
	return text + ", registered " + a.RegisteredAt.Format(time.RFC3339)
}

// Unsigned counts what travels with the statement and nobody signed as part of
// it. Each receipt and certificate has its own signature.
type Unsigned struct {
	Receipts     int `json:"receipts"`
	Certificates int `json:"certificates"`
}

// Failure is the worst class among failed checks, "" when none failed.
func (v Verdict) Failure() string {
	for _, class := range []string{FailInvalid, FailUntrusted, FailUnmet} {
		for _, c := range v.Checks {
			if c.Status == Fail && c.Code == class {
				return class
			}
		}
	}
	return ""
}

// Passed says whether the check of that name was made and is OK.
func (v Verdict) Passed(name string) bool {
	for _, c := range v.Checks {
		if c.Name == name && c.Status == OK {
			return true
		}
	}
	return false
}
