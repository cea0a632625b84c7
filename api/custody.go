package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/scittd/scittd/api/apitype"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/statement"
)

// Custodian knows where the bytes are that claims speak for, lets them go, and
// knows which images belong together. Every lookup is bounded by the scope it is
// given.
type Custodian interface {
	// Claims is Find of the Ledger, with what image indexes relate: see
	// ledger.Claims.
	Claims(ctx context.Context, q ledger.Query, instances bool) ([]ledger.Claim, error)
	// Absences of entries that were shown by Claims.
	Absences(ctx context.Context, entries []uint64) ([]ledger.Absence, error)
	// URL is where clients find a blob in the registry, absolute or a path on this
	// host; "" when they are to have it from here.
	URL(d ledger.Delivery, blob statement.Digest) string
	// Open opens evidence where it was placed; ledger.ErrNotFound.
	Open(ctx context.Context, d ledger.Delivery, evidence statement.Digest) (io.ReadCloser, int64, error)
	// Purge declares evidence purged; ledger.ErrNotFound.
	Purge(ctx context.Context, id statement.ID, scope ledger.Scope, who, why string) error
	// KeepIndex remembers what an image index lists. ledger.ErrNoIndex, ErrTooLarge.
	KeepIndex(ctx context.Context, digest statement.Digest, body []byte) error
}

// nobody is the Custodian of a service that has none.
type nobody struct{ Ledger }

func (n nobody) Claims(ctx context.Context, q ledger.Query, _ bool) ([]ledger.Claim, error) {
	if len(q.IDs) == 1 {
		e, err := n.Entry(ctx, q.IDs[0], q.Scope)
		return []ledger.Claim{{Entry: e}}, err
	}
	entries, err := n.Find(ctx, q)
	claims := make([]ledger.Claim, len(entries))
	for i, e := range entries {
		claims[i].Entry = e
	}
	return claims, err
}

func (nobody) Absences(context.Context, []uint64) ([]ledger.Absence, error) { return nil, nil }
func (nobody) URL(ledger.Delivery, statement.Digest) string                 { return "" }
func (nobody) Open(context.Context, ledger.Delivery, statement.Digest) (io.ReadCloser, int64, error) {
	return nil, 0, ledger.ErrNotFound
}
func (nobody) Purge(context.Context, statement.ID, ledger.Scope, string, string) error {
	return ledger.ErrNotFound
}
func (nobody) KeepIndex(context.Context, statement.Digest, []byte) error { return ledger.ErrNoIndex }

// describeAll shows claims, and what became of evidence that is gone. Only then
// does that cost a query, one for all of them.
func (a *API) describeAll(ctx context.Context, c Caller, claims []ledger.Claim) ([]apitype.Entry, error) {
	var gone []uint64
	for _, claim := range claims {
		if claim.EvidenceState == ledger.EvidenceMissing || claim.EvidenceState == ledger.EvidencePurged {
			gone = append(gone, claim.Index)
		}
	}
	of := map[uint64]ledger.Absence{}
	if gone != nil {
		absences, err := a.Custodian.Absences(ctx, gone)
		if err != nil {
			return nil, err
		}
		for _, b := range absences { // of an entry, the whole comes first
			if known, ok := of[b.Entry]; !ok || known.State != ledger.EvidenceMissing && b.State == ledger.EvidenceMissing {
				of[b.Entry] = b
			}
		}
	}
	all := make([]apitype.Entry, 0, len(claims))
	for _, claim := range claims {
		shown := describe(claim.Entry)
		shown.Via, shown.Instance = string(claim.Via), string(claim.Instance)
		if shown.Evidence.Digest != "" {
			shown.Evidence.State = claim.EvidenceState
		}
		if b, ok := of[claim.Index]; ok {
			shown.Evidence = describeAbsence(c, b)
		}
		all = append(all, shown)
	}
	return all, nil
}

// describeAbsence tells who declared it to those only who may see everything.
func describeAbsence(c Caller, b ledger.Absence) apitype.Evidence {
	at := b.At.UTC().Truncate(time.Second)
	e := apitype.Evidence{Digest: string(b.Evidence), State: b.State, Size: b.Size, Reason: b.Why}
	switch b.State {
	case ledger.EvidencePurged:
		e.PurgedAt = &at
		if b.Statement != (statement.ID{}) {
			e.Statement = b.Statement.String()
		}
	default:
		e.MissingSince = &at
	}
	if c.Scope() == ledger.All {
		e.By = b.Who
	}
	return e
}

// claim finds one entry that c may see.
func (a *API) claim(r *http.Request, c Caller) (ledger.Claim, error) {
	id, err := entryID(r)
	if err != nil {
		return ledger.Claim{}, err
	}
	found, err := a.Custodian.Claims(r.Context(), ledger.Query{Scope: c.Scope(), IDs: []statement.ID{id}, Limit: 1}, false)
	if err == nil && len(found) == 0 {
		err = fmt.Errorf("entry %s: %w", id, ledger.ErrNotFound)
	}
	if err != nil {
		return ledger.Claim{}, err
	}
	return found[0], nil
}

// evidence answers with the bytes that a claim speaks for, or where they are.
func (a *API) evidence(w http.ResponseWriter, r *http.Request, c Caller) error {
	claim, err := a.claim(r, c)
	if err != nil {
		return err
	}
	switch claim.EvidenceState {
	case ledger.EvidencePurged, ledger.EvidenceMissing:
		return a.absent(r, c, claim)
	case ledger.EvidencePlaced:
		return a.placed(w, r, c, claim)
	}
	return a.held(w, r, c, claim)
}

// absent is the problem of evidence that is gone.
func (a *API) absent(r *http.Request, c Caller, claim ledger.Claim) error {
	shown, err := a.describeAll(r.Context(), c, []ledger.Claim{claim})
	if err != nil {
		return err
	}
	e := shown[0]
	day := func(at *time.Time) string {
		if at == nil {
			return "a day that is not known"
		}
		return at.Format(time.DateOnly)
	}
	f := &fault{code: "evidence-purged", entry: e.EntryID, gone: &e,
		detail: "Removed on " + day(e.Evidence.PurgedAt) + "; the claim and its receipt remain valid."}
	if e.Evidence.State == ledger.EvidenceMissing {
		f.code = "evidence-missing"
		f.detail = "Found gone on " + day(e.Evidence.MissingSince) + "; the claim and its receipt remain valid."
	}
	return f
}

// placed leads to the registry, or passes on what it has.
func (a *API) placed(w http.ResponseWriter, r *http.Request, c Caller, claim ledger.Claim) error {
	deliveries, err := a.Ledger.Deliveries(r.Context(), claim.ID, c.Scope())
	if err != nil {
		return err
	}
	absences, err := a.Custodian.Absences(r.Context(), []uint64{claim.Index})
	if err != nil {
		return err
	}
	gone := map[ledger.Place]bool{}
	for _, b := range absences {
		gone[b.Place] = true
	}
	err = fmt.Errorf("evidence of entry %s: %w", claim.ID, ledger.ErrNotFound)
	for _, d := range deliveries {
		if d.Artifact != ledger.EvidenceArtifact || d.State != ledger.Done || gone[d.Place()] {
			continue
		}
		if at := a.Custodian.URL(d, claim.Evidence); at != "" {
			w.Header().Set("Location", at)
			w.Header().Set("Cache-Control", fresh(c))
			w.WriteHeader(http.StatusTemporaryRedirect)
			return nil
		}
		blob, size, failed := a.Custodian.Open(r.Context(), d, claim.Evidence)
		if failed == nil {
			defer blob.Close()
			return sendEvidence(w, r, c, claim.Entry, blob, size)
		}
		if err = failed; !errors.Is(failed, ledger.ErrNotFound) {
			err = &fault{code: "registry-failure", cause: failed}
		}
	}
	return err
}

// held answers with what the service has itself: an attached payload, which
// whoever sees the statement sees, or what was staged.
func (a *API) held(w http.ResponseWriter, r *http.Request, c Caller, claim ledger.Claim) error {
	record, err := a.Ledger.Record(r.Context(), claim.ID, c.Scope())
	if err != nil {
		return err
	}
	s, err := statement.Parse(record.Canonical)
	if err != nil {
		return fmt.Errorf("read entry %s back: %w", claim.ID, err)
	}
	if s.Attached() {
		return sendEvidence(w, r, c, claim.Entry, bytes.NewReader(s.Payload), int64(len(s.Payload)))
	}
	if a.Staging == nil || !a.EvidenceHere && c.anonymous() {
		return fmt.Errorf("evidence of entry %s: %w", claim.ID, ledger.ErrNotFound)
	}
	staged, size, err := a.Staging.Staged(r.Context(), claim.Evidence)
	if err != nil {
		return err
	}
	defer staged.Close()
	return sendEvidence(w, r, c, claim.Entry, staged, size)
}

const (
	maxPurgeBody = 4 << 10
	maxReason    = 500 // characters
)

// purge declares evidence purged. It is done when the ledger knows it; what the
// registry has is removed behind that.
func (a *API) purge(w http.ResponseWriter, r *http.Request, c Caller) error {
	claim, err := a.claim(r, c)
	if err != nil {
		return err
	}
	order, err := readPurge(w, r)
	if err != nil {
		return err
	}
	if err := a.Custodian.Purge(r.Context(), claim.ID, c.Scope(), c.Name, order.Reason); err != nil {
		return err
	}
	if claim, err = a.claim(r, c); err != nil {
		return err
	}
	shown, err := a.describeAll(r.Context(), c, []ledger.Claim{claim})
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", "no-store")
	send(w, http.StatusOK, jsonType, marshalJSON(shown[0].Evidence))
	a.log.InfoContext(r.Context(), "evidence purged", "entry", claim.ID, "evidence", claim.Evidence, "caller", c.Name)
	return nil
}

// readPurge reads the body of a purge, which may be empty.
func readPurge(w http.ResponseWriter, r *http.Request) (order apitype.Purge, err error) {
	body, err := readBody(w, r, maxPurgeBody)
	if err != nil || len(bytes.TrimSpace(body)) == 0 {
		return order, err
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(&order); err != nil {
		return order, &fault{code: "malformed-request", detail: "The body is not the JSON of a purge: " + bounded(err.Error()), cause: err}
	}
	switch _, err := d.Token(); {
	case err != io.EOF:
		return order, &fault{code: "malformed-request", detail: "There is something behind the JSON of the purge."}
	case utf8.RuneCountInString(order.Reason) > maxReason || strings.ContainsRune(order.Reason, 0):
		return order, &fault{code: "malformed-request", detail: fmt.Sprintf("The reason is text of at most %d characters.", maxReason)}
	}
	return order, nil
}

// maxIndex is the largest image index that is read.
const maxIndex = 4 << 20

// keepIndex remembers which manifests an image index lists, for those who know one
// that no registry of this service has.
func (a *API) keepIndex(w http.ResponseWriter, r *http.Request, _ Caller) error {
	digest, err := parseDigest(pathValue(r, "digest"))
	if err != nil {
		return err
	}
	if err := acceptPlain(r.Header); err != nil {
		return err
	}
	body, err := readBody(w, r, maxIndex)
	if err != nil {
		return err
	}
	switch err := a.Custodian.KeepIndex(r.Context(), digest, body); {
	case errors.Is(err, ledger.ErrNoIndex) && !digest.Matches(body):
		return &fault{code: "digest-mismatch", cause: err}
	case errors.Is(err, ledger.ErrNoIndex):
		return &fault{code: "malformed-request", detail: "This is no image index, or it lists no manifest."}
	case errors.Is(err, ledger.ErrTooLarge):
		return &fault{code: "too-large", detail: fmt.Sprintf("Of an image index at most %d manifests are kept.", ledger.MaxListed)}
	case err != nil:
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// purging wraps an endpoint for callers who may purge.
func (a *API) purging(h func(http.ResponseWriter, *http.Request, Caller) error) http.HandlerFunc {
	return a.endpoint(quick, func(w http.ResponseWriter, r *http.Request) error {
		if a.ReadOnly {
			return &fault{code: "read-only"}
		}
		c, err := a.admit(r)
		switch {
		case err != nil:
			return err
		case c.Purge, c.anonymous() && a.OpenWrites:
			return h(w, r, c)
		case c.anonymous():
			return &fault{code: "unauthenticated", detail: "Purging needs a token with the scope purge.", hint: "send it as Authorization: Bearer <token>"}
		}
		return &fault{code: "forbidden", detail: "Purging needs a token with the scope purge."}
	})
}

// downloading wraps an endpoint that streams what its caller may see.
func (a *API) downloading(h func(http.ResponseWriter, *http.Request, Caller) error) http.HandlerFunc {
	return a.endpoint(streamed, func(w http.ResponseWriter, r *http.Request) error {
		c, err := a.admit(r)
		if err != nil {
			return err
		}
		return h(w, r, c)
	})
}

// instancesOf reads the parameter instances.
func instancesOf(values []string) (bool, error) {
	if len(values) == 1 {
		if yes, err := strconv.ParseBool(values[0]); err == nil {
			return yes, nil
		}
	}
	return false, badFilter("instances", "it is true or false")
}

// BlobURL is the address of a blob below a registry's root, "" for this host.
func BlobURL(root, repository string, blob statement.Digest) string {
	return strings.TrimSuffix(root, "/") + (&url.URL{Path: "/v2/" + repository + "/blobs/" + string(blob)}).EscapedPath()
}
