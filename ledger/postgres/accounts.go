package postgres

import (
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/statement"
)

// account is what an audit row says of an entry, but for the image that it came
// for: nearly always the same as of an earlier one.
type account struct {
	policy                       statement.ID
	rule                         string
	identity                     policy.Identity
	caller, registry, repository string
}

// accounts are the entries whose audit rows speak for others too, as far as this
// process has written them: another one, or its next start, writes its own.
type accounts struct {
	mu sync.Mutex // held for a lookup, never across a query
	of map[account]int64
}

// spoken is how many are kept; beyond that all are forgotten and written again.
const spoken = 1 << 14

// telling are the audit rows of one batch.
type telling struct {
	*accounts
	audited []pgtype.Int8      // for each entry: see migration 00011
	own     []*ledger.NewEntry // those that have a row
	met     map[account]int64  // to be learned once committed
}

// tell finds out which entries need an audit row of their own.
func (a *accounts) tell(entries []ledger.NewEntry) *telling {
	t := &telling{accounts: a, audited: make([]pgtype.Int8, len(entries)), met: map[account]int64{}}
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := range entries {
		e := &entries[i]
		if e.Image != "" {
			t.own = append(t.own, e)
			continue
		}
		said := account{e.Policy, e.Rule, e.Identity, e.Caller, e.Registry, e.Repository}
		first, ok := a.of[said]
		if !ok {
			first, ok = t.met[said]
		}
		if ok {
			t.audited[i] = pgtype.Int8{Int64: first, Valid: true}
			continue
		}
		t.own = append(t.own, e)
		t.met[said] = int64(e.Index)
	}
	return t
}

// queue writes the rows. They name policies by their index, and such a one may be
// in this very batch, so that they come behind the entries. What is no entry leaves
// NULL, which the table refuses.
func (t *telling) queue(q *pgx.Batch) {
	n := len(t.own)
	if n == 0 {
		return
	}
	index, policy, rule, caller := make([]int64, n), make([][]byte, n), make([]string, n), make([]string, n)
	kind, issuer, thumbprint, name := make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	registry, repository, image := make([]string, n), make([]string, n), make([][]byte, n)
	for i, e := range t.own {
		index[i], policy[i], rule[i], caller[i] = int64(e.Index), e.Policy[:], e.Rule, e.Caller
		kind[i], issuer[i], thumbprint[i], name[i] = e.Identity.Kind, e.Identity.Issuer, e.Identity.Thumbprint, e.Identity.Name
		registry[i], repository[i], image[i] = e.Registry, e.Repository, e.Image.Bytes() // nil, so NULL, for none
	}
	q.Queue(`INSERT INTO audit (index, policy_index, rule, identity_kind, identity_issuer, identity_thumbprint, identity_name, caller, registry, repository, image)
		SELECT index, (SELECT e.index FROM entries e WHERE e.entry_id = policy), rule, kind, issuer, thumbprint, name, caller, registry, repository, image
		FROM unnest($1::bigint[], $2::bytea[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[], $11::bytea[])
		     AS a (index, policy, rule, kind, issuer, thumbprint, name, caller, registry, repository, image)`,
		index, policy, rule, kind, issuer, thumbprint, name, caller, registry, repository, image)
}

// learn remembers rows that are known to be committed.
func (t *telling) learn() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.of)+len(t.met) > spoken {
		clear(t.of)
	}
	for said, first := range t.met {
		t.of[said] = first
	}
}

// auditOf joins a, the audit row that speaks for entry e.
const auditOf = `LEFT JOIN audit a ON a.index = coalesce(e.audited, e.index)`
