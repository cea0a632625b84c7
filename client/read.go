package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/scittd/scittd/api/apitype"
	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/statement"
)

// Receipt fetches the batch receipt of an entry, unverified.
func (c *Client) Receipt(ctx context.Context, id statement.ID) ([]byte, error) {
	return c.get(ctx, entryPath(id, "receipt"), "application/cose")
}

// FreshReceipt fetches a receipt of an entry under the newest head, unverified:
// proof that the log still holds it. The batch's is the one to keep.
func (c *Client) FreshReceipt(ctx context.Context, id statement.ID) ([]byte, error) {
	return c.get(ctx, entryPath(id, "receipt?fresh"), "application/cose")
}

// Statement fetches the canonical bytes of an entry; they hash to id.
func (c *Client) Statement(ctx context.Context, id statement.ID) ([]byte, error) {
	return c.statement(ctx, id, "statement")
}

// Transparent fetches the Transparent Statement of an entry; its statement
// hashes to id.
func (c *Client) Transparent(ctx context.Context, id statement.ID) ([]byte, error) {
	return c.statement(ctx, id, "transparent")
}

func (c *Client) statement(ctx context.Context, id statement.ID, form string) ([]byte, error) {
	body, err := c.get(ctx, entryPath(id, form), "application/cose")
	if err != nil {
		return nil, err
	}
	s, err := statement.Parse(body)
	if err != nil {
		return nil, fmt.Errorf("%s answered something else than a statement: %w", c.base, err)
	}
	if s.ID() != id {
		return nil, fmt.Errorf("%s answered statement %s instead of %s", c.base, s.ID(), id)
	}
	return body, nil
}

func entryPath(id statement.ID, part string) string { return "/v1/entries/" + id.String() + "/" + part }

// Keys fetches the service's receipt keys. They prove nothing by themselves:
// compare their thumbprints with what you pinned.
func (c *Client) Keys(ctx context.Context) (receipts.KeySet, error) {
	body, err := c.get(ctx, "/.well-known/scitt-keys", "application/cbor")
	if err != nil {
		return nil, err
	}
	set, err := receipts.ParseKeySet(body)
	if err != nil {
		return nil, fmt.Errorf("keys of %s: %w", c.base, err)
	}
	return set, nil
}

// Service fetches the service's description.
func (c *Client) Service(ctx context.Context) (apitype.Service, error) {
	var s apitype.Service
	return s, c.json(ctx, "/v1/service", &s)
}

// Entry fetches the index row of an entry.
func (c *Client) Entry(ctx context.Context, id statement.ID) (apitype.Entry, error) {
	var e apitype.Entry
	if err := c.json(ctx, "/v1/entries/"+id.String(), &e); err != nil {
		return e, err
	}
	if e.EntryID != id.String() {
		return e, fmt.Errorf("%s answered entry %q instead of %s", c.base, e.EntryID, id)
	}
	return e, nil
}

// Deliveries fetches where an entry is to be, or was, placed.
func (c *Client) Deliveries(ctx context.Context, id statement.ID) ([]apitype.Delivery, error) {
	var d apitype.Deliveries
	err := c.json(ctx, entryPath(id, "deliveries"), &d)
	return d.Deliveries, err
}

// Collateral fetches what authenticated an entry besides its own bytes.
func (c *Client) Collateral(ctx context.Context, id statement.ID) (apitype.CollateralList, error) {
	var list apitype.CollateralList
	return list, c.json(ctx, entryPath(id, "collateral"), &list)
}

// Query filters entries: values of one field are OR-ed, fields AND-ed.
type Query struct {
	Artifacts      []statement.Digest // at most 100, as every field
	Evidence       []statement.Digest
	Issuers        []string
	IssuerPrefixes []statement.IssuerPrefix
	MediaTypes     []string
	PredicateTypes []string
	Since, Until   time.Time // registration time, [Since, Until); zero: open
	Instances      bool      // of an image index, also claims about what it lists
	Limit          int       // page size, at most 500; 0: the service's default
	Cursor         string    // Next of the previous page
}

func (q Query) values() url.Values {
	v := url.Values{"issuer": q.Issuers, "mediaType": q.MediaTypes, "predicateType": q.PredicateTypes}
	for _, d := range q.Artifacts {
		v.Add("subject", string(d))
	}
	for _, d := range q.Evidence {
		v.Add("evidence", string(d))
	}
	for _, p := range q.IssuerPrefixes {
		v.Add("issuerPrefix", string(p))
	}
	for name, at := range map[string]time.Time{"since": q.Since, "until": q.Until} {
		if !at.IsZero() {
			v.Set(name, at.UTC().Format(time.RFC3339))
		}
	}
	if q.Instances {
		v.Set("instances", "true")
	}
	if q.Limit > 0 {
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	if q.Cursor != "" {
		v.Set("cursor", q.Cursor)
	}
	return v
}

// Find fetches one page of entries, newest first.
func (c *Client) Find(ctx context.Context, q Query) (apitype.EntryList, error) {
	var page apitype.EntryList
	if err := c.json(ctx, "/v1/entries?"+q.values().Encode(), &page); err != nil {
		return page, err
	}
	// IDs become paths and file names, so they must be IDs.
	for _, e := range page.Entries {
		if _, err := statement.ParseID(e.EntryID); err != nil {
			return page, fmt.Errorf("%s lists an entry of a malformed id: %w", c.base, err)
		}
	}
	return page, nil
}

// HasExtension says whether the registry at this client's URL lists the named
// extension (OCI distribution-spec, extensions/_oci.md). A host that answers
// anything but a list has none.
func (c *Client) HasExtension(ctx context.Context, name string) (bool, error) {
	answer, err := c.do(ctx, request{method: http.MethodGet, path: "/v2/_oci/ext/discover"})
	if err != nil || answer.status != http.StatusOK {
		return false, err
	}
	type extension struct {
		Name string `json:"name"`
	}
	var list struct {
		Extensions []extension `json:"extensions"`
	}
	if json.Unmarshal(answer.body, &list) != nil {
		return false, nil
	}
	return slices.Contains(list.Extensions, extension{name}), nil
}

func (c *Client) json(ctx context.Context, path string, into any) error {
	body, err := c.get(ctx, path, "application/json")
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("GET %s%s: %w", c.base, path, err)
	}
	return nil
}

func (c *Client) get(ctx context.Context, path, accept string) ([]byte, error) {
	answer, err := c.do(ctx, request{method: http.MethodGet, path: path, header: http.Header{"Accept": {accept}}})
	if err != nil {
		return nil, err
	}
	if answer.status != http.StatusOK {
		return nil, c.unexpected(answer)
	}
	return answer.body, nil
}
