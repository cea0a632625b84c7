package api

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/scittd/scittd/internal/failpoint"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/statement"
)

const (
	coseType      = "application/cose"
	statementType = "application/scitt-statement+cose"
	receiptType   = "application/scitt-receipt+cose"
	cborType      = "application/cbor"

	// immutable is what never changes under its path.
	immutable = "max-age=31536000, immutable"
)

// register is SCRAPI's Register Signed Statement.
func (a *API) register(w http.ResponseWriter, r *http.Request, c Caller) error {
	return a.registerIn(w, r, c, "")
}

// circumstances are what a registration says beside the statement: the digest of
// a detached payload that was staged (?evidence=), and, where the path names a
// repository, the image that a statement without one belongs to (?subject=).
// Other parameters mean nothing here.
func circumstances(r *http.Request, c Caller, repository string) (with ledger.Circumstances, err error) {
	with = ledger.Circumstances{Repository: repository, Caller: c.Name, Scope: c.Scope()}
	query := r.URL.Query()
	if with.Evidence, err = digestParameter(query, "evidence"); err != nil || repository == "" {
		return with, err
	}
	with.Image, err = digestParameter(query, "subject")
	return with, err
}

// digestParameter reads a parameter that is a digest, at most once; "" without.
func digestParameter(query url.Values, name string) (statement.Digest, error) {
	switch values := query[name]; len(values) {
	case 0:
		return "", nil
	case 1:
		all, err := digests(name, values)
		if err != nil {
			return "", err
		}
		return all[0], nil
	}
	return "", badFilter(name, "it is given more than once")
}

// registerIn registers a statement whose claim belongs to repository; "" when
// the path names none.
//
// SPEC draft-ietf-scitt-scrapi-11 §2.3.1, §2.3.2: 201 with the Receipt, or 202
// and an empty body; Location MUST be present in both, and is the same.
func (a *API) registerIn(w http.ResponseWriter, r *http.Request, c Caller, repository string) error {
	if err := acceptStatement(r.Header); err != nil {
		return err
	}
	with, err := circumstances(r, c, repository)
	if err != nil {
		return err
	}
	body, err := readBody(w, r, a.Limits.Statement)
	if err != nil {
		return err
	}

	failpoint.Hit(failpoint.Read)
	reg, err := a.submit(r.Context(), body, with)
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Location", entryPath(reg.Entry.ID))
	h.Set("Cache-Control", "no-store")
	if reg.pending {
		h.Set("Retry-After", "1")
		h.Set("Content-Length", "0")
		w.WriteHeader(http.StatusAccepted)
		return nil
	}
	failpoint.Hit(failpoint.Answering)
	send(w, http.StatusCreated, receiptTypeFor(r), reg.Receipt)
	return nil
}

// submitted is a registration as far as it was waited for.
type submitted struct {
	ledger.Registered
	pending bool // the outcome is not known in time; only Entry.ID is set
}

// submit registers the statement in body, alone or one of a batch, and waits
// RegisterWait for its outcome. Whatever becomes of it has one line in the log.
func (a *API) submit(ctx context.Context, body []byte, with ledger.Circumstances) (submitted, error) {
	wait, cancel := context.WithTimeout(ctx, a.RegisterWait)
	defer cancel()
	reg, err := a.Registrar.Register(wait, body, with)
	switch {
	case err == nil:
		if !reg.New {
			a.log.DebugContext(ctx, "registered before", "entry", reg.Entry.ID, "caller", with.Caller)
		}
		return submitted{Registered: reg}, nil
	case errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil:
		s, err := statement.Parse(body)
		if err != nil {
			return submitted{}, err
		}
		a.log.InfoContext(ctx, "registration pending", "entry", s.ID(), "caller", with.Caller)
		return submitted{Registered: ledger.Registered{Entry: ledger.Entry{ID: s.ID()}}, pending: true}, nil
	}
	// The registrar logs what it registers and refuses, trace what goes wrong on
	// our side: this line is for the rest.
	if f := faultOf(err); problem(f.code).Status == http.StatusBadRequest && !errors.As(err, new(*policy.Refusal)) {
		a.log.InfoContext(ctx, "statement not accepted", "code", f.code, "caller", with.Caller)
	}
	return submitted{}, err
}

// acceptStatement checks that a body is announced as a Signed Statement, plain:
// a submission is never decompressed.
func acceptStatement(h http.Header) error {
	unsupported := func(detail string) error {
		return &fault{
			code: "unsupported-media-type", detail: detail, accept: []string{coseType, statementType},
			hint: "send Content-Type: " + coseType + " or " + statementType,
		}
	}
	if err := acceptPlain(h); err != nil {
		return err
	}
	types := h.Values("Content-Type")
	if len(types) != 1 {
		return unsupported("There must be exactly one Content-Type.")
	}
	mediaType, params, err := mime.ParseMediaType(types[0])
	if err != nil {
		return unsupported("Content-Type is malformed.")
	}
	coseKind, named := params["cose-type"]
	switch {
	case mediaType == statementType:
		return nil
	case mediaType != coseType:
		return unsupported(fmt.Sprintf("Content-Type %q is not that of a Signed Statement.", bounded(mediaType)))
	case named && !strings.EqualFold(coseKind, "cose-sign1"):
		return unsupported(fmt.Sprintf("cose-type %q is not cose-sign1.", bounded(coseKind)))
	}
	return nil
}

// acceptPlain refuses a body with any Content-Encoding.
func acceptPlain(h http.Header) error {
	if len(h.Values("Content-Encoding")) > 0 {
		return &fault{code: "unsupported-media-type", detail: "A body with a Content-Encoding is not accepted, not even identity.", hint: "send it uncompressed, without Content-Encoding"}
	}
	return nil
}

// readBody reads the whole body of r, at most limit bytes. What is announced
// larger is refused unread; a length that is announced is not believed before
// its bytes arrive.
func readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	if r.ContentLength > limit {
		return nil, tooLarge(limit)
	}
	var b bytes.Buffer
	b.Grow(int(min(max(r.ContentLength, 0)+bytes.MinRead, 64<<10)))
	_, err := b.ReadFrom(http.MaxBytesReader(w, r.Body, limit))
	return b.Bytes(), bodyError(err)
}

// bodyError says what was wrong with the arrival of a body.
func bodyError(err error) error {
	switch {
	case err == nil, errors.As(err, new(*http.MaxBytesError)):
		return err
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &fault{code: "request-timeout"}
	}
	return &fault{code: "malformed-request", detail: "The body could not be read to its end.", cause: err}
}

func tooLarge(limit int64) *fault {
	return &fault{
		code:   "too-large",
		detail: fmt.Sprintf("The body exceeds the limit of %d bytes.", limit),
		hint:   "sign the digest of large evidence as a hash envelope (RFC 9995) instead of attaching it",
	}
}

// receiptTypeFor is how a receipt is labelled: application/cose, unless the
// client lists the receipt's own type and does not prefer the general one.
func receiptTypeFor(r *http.Request) string {
	own, listed := quality(r.Header, receiptType)
	general, _ := quality(r.Header, coseType)
	if listed && own > 0 && own >= general {
		return receiptType
	}
	return coseType
}

// quality is the q of mediaType where Accept lists that very type. Several
// Accept lines are one list (RFC 9110 §5.3).
func quality(h http.Header, mediaType string) (q float64, listed bool) {
	for item := range strings.SplitSeq(strings.Join(h.Values("Accept"), ","), ",") {
		got, params, err := mime.ParseMediaType(item)
		if err != nil || got != mediaType {
			continue
		}
		q, listed = 1, true
		if text, ok := params["q"]; ok {
			if q, err = strconv.ParseFloat(text, 64); err != nil {
				q = 0
			}
		}
	}
	return q, listed
}

// resolve is SCRAPI's Resolve Receipt.
//
// SPEC draft-ietf-scitt-scrapi-11 §2.4.2: 204 while registration is running
// SHOULD carry Retry-After and Cache-Control: no-store.
func (a *API) resolve(w http.ResponseWriter, r *http.Request, c Caller) error {
	id, err := entryID(r)
	if err != nil {
		return err
	}
	newest, err := wantsFresh(r)
	if err != nil {
		return err
	}
	read := a.Ledger.Receipt
	if newest {
		read = a.Ledger.Fresh
	}
	// Asked in this order, an entry that is committed in between is found.
	pending := a.Ledger.Pending(id)
	receipt, err := read(r.Context(), id, c.Scope())
	if pending && errors.Is(err, ledger.ErrNotFound) {
		w.Header().Set("Retry-After", "1")
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	if err != nil {
		return err
	}
	w.Header().Set("Location", entryPath(id))
	w.Header().Set("Vary", "Accept")
	sendReceipt(w, r, c, newest, receiptTypeFor(r), id, receipt)
	return nil
}

// wantsFresh says whether the query asks for a receipt under the newest head,
// with ?fresh, in place of the batch's. Other parameters mean nothing here.
func wantsFresh(r *http.Request) (bool, error) {
	query := r.URL.Query()
	if !query.Has("fresh") {
		return false, nil
	}
	switch query.Get("fresh") {
	case "", "1", "true":
		return true, nil
	case "0", "false":
		return false, nil
	}
	return false, &fault{code: "bad-filter", detail: fmt.Sprintf("fresh=%q is neither true nor false.", bounded(query.Get("fresh")))}
}

// sendReceipt answers with a receipt: the batch's is the same for ever, a fresh
// one is another as soon as the log grows.
func sendReceipt(w http.ResponseWriter, r *http.Request, c Caller, newest bool, mediaType string, id statement.ID, receipt []byte) {
	if !newest {
		sendImmutable(w, r, c, mediaType, id.String(), receipt)
		return
	}
	w.Header().Set("Cache-Control", fresh(c))
	send(w, http.StatusOK, mediaType, receipt)
}

// keySet is SCRAPI's Transparency Service Keys: from the log, the current key
// first, then the retired ones.
func (a *API) keySet(w http.ResponseWriter, r *http.Request) error {
	b, err := a.Ledger.Keys().Marshal()
	if err != nil {
		return fmt.Errorf("marshal key set: %w", err)
	}
	w.Header().Set("Cache-Control", "max-age=300")
	send(w, http.StatusOK, cborType, b)
	return nil
}

// key is SCRAPI's Individual Transparency Service Key.
//
// SPEC draft-ietf-scitt-scrapi-11 §2.2: the base64url form of every kid MUST be
// accepted, and the kid itself where it is safe in a path. The encoded form
// wins, so that the two cannot collide.
func (a *API) key(w http.ResponseWriter, r *http.Request) error {
	named := pathValue(r, "kid")
	keys := a.Ledger.Keys()
	kid, err := base64.RawURLEncoding.Strict().DecodeString(named)
	key, ok := keys.Find(kid)
	if err != nil || !ok {
		key, ok = keys.Find([]byte(named))
	}
	if !ok || named == "" {
		return &fault{code: "no-such-key"}
	}
	b, err := key.Marshal()
	if err != nil {
		return fmt.Errorf("marshal key: %w", err)
	}
	w.Header().Set("Cache-Control", "max-age=300")
	send(w, http.StatusOK, cborType, b)
	return nil
}

func entryPath(id statement.ID) string { return "/entries/" + id.String() }

// entryID reads the {id} of a path.
func entryID(r *http.Request) (statement.ID, error) {
	id, err := statement.ParseID(pathValue(r, "id"))
	if err != nil {
		return id, &fault{code: "invalid-locator", cause: err}
	}
	return id, nil
}

// sendImmutable answers with bytes that never change under their path. What a
// reader's token may have opened is kept out of shared caches.
func sendImmutable(w http.ResponseWriter, r *http.Request, c Caller, contentType, tag string, body []byte) {
	h := w.Header()
	h.Set("Cache-Control", "public, "+immutable)
	if c.Scope() != ledger.Public {
		h.Set("Cache-Control", "private, "+immutable)
	}
	sendTagged(w, r, contentType, tag, body)
}

// sendTagged answers unless the client has what tag names.
func sendTagged(w http.ResponseWriter, r *http.Request, contentType, tag string, body []byte) {
	w.Header().Set("ETag", `"`+tag+`"`)
	if matches(r.Header, tag) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	send(w, http.StatusOK, contentType, body)
}

// matches: the client has what tag names (RFC 9110 §13.1.2).
func matches(h http.Header, tag string) bool {
	for item := range strings.SplitSeq(strings.Join(h.Values("If-None-Match"), ","), ",") {
		item = strings.TrimPrefix(strings.TrimSpace(item), "W/")
		if item == "*" || item == `"`+tag+`"` {
			return true
		}
	}
	return false
}
