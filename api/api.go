package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-chi/chi/v5"
	"golang.org/x/sync/semaphore"

	"github.com/scittd/scittd/api/apitype"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/statement"
)

// Ledger is what the API reads. *ledger.Ledger is one. Every lookup is bounded
// by the scope it is given: what is out of scope is ledger.ErrNotFound.
type Ledger interface {
	Service() ledger.Service
	Policy() *policy.Policy
	Keys() receipts.KeySet
	Pending(id statement.ID) bool
	Head(ctx context.Context) (ledger.Head, error)
	Seen() ledger.Head
	Find(ctx context.Context, q ledger.Query) ([]ledger.Entry, error)
	Entry(ctx context.Context, id statement.ID, scope ledger.Scope) (ledger.Entry, error)
	Record(ctx context.Context, id statement.ID, scope ledger.Scope) (ledger.Record, error)
	Receipt(ctx context.Context, id statement.ID, scope ledger.Scope) ([]byte, error)
	Fresh(ctx context.Context, id statement.ID, scope ledger.Scope) ([]byte, error)
	Transparent(ctx context.Context, id statement.ID, scope ledger.Scope) ([]byte, error)
	Deliveries(ctx context.Context, id statement.ID, scope ledger.Scope) ([]ledger.Delivery, error)
	Policies
	PublicLog
}

// Policies are those that the log has.
type Policies interface {
	PolicyAt(ctx context.Context, index uint64) (ledger.Reign, error)
	PolicyOf(ctx context.Context, id statement.ID) (ledger.Reign, error)
	Proposals(ctx context.Context) ([]ledger.Reign, error)
}

// PublicLog is what an auditor reads of a Ledger.
type PublicLog interface {
	Checkpoint(ctx context.Context) ([]byte, error)
	Tile(ctx context.Context, id ledger.TileID, width int) ([]byte, error)
	EntryBundle(ctx context.Context, n uint64, width int) ([]byte, error)
	Heads(ctx context.Context, after uint64, limit int) ([]ledger.Head, error)
	Consistency(ctx context.Context, from, to uint64) (ledger.Consistency, error)
	ReceiptAt(ctx context.Context, id statement.ID, size uint64, scope ledger.Scope) ([]byte, error)
	Statements(ctx context.Context, from uint64, limit int, scope ledger.Scope) ([]ledger.Leaf, error)
}

var _ Ledger = (*ledger.Ledger)(nil)

// Registrar registers Signed Statements. When ctx ends before the outcome is
// known it returns an error that wraps ctx's, and the statement may still be
// registered. Safe for concurrent use.
type Registrar interface {
	Register(ctx context.Context, body []byte, with ledger.Circumstances) (ledger.Registered, error)
}

// Judge says what Register would decide, and changes nothing. A Decision with a
// Refusal is no error.
type Judge interface {
	Judge(ctx context.Context, body []byte, with ledger.Circumstances) (*statement.Statement, policy.Decision, error)
}

// Config is what an API is made of. Ledger and Registrar are needed; the rest
// is good at zero.
type Config struct {
	Ledger    Ledger
	Registrar Registrar
	Judge     Judge           // nil: no dry runs here
	Refusals  ledger.Refusals // nil: nothing is pushed through here
	Decisions Decisions       // nil: none are read out here
	Staging   ledger.Staging  // nil: no evidence is staged here
	Tokens    ledger.Tokens   // nil: nobody has a token
	Custodian Custodian       // nil: nothing is known of evidence and image indexes

	ReadOnly     bool          // everything that writes answers 503, unread
	OpenWrites   bool          // anonymous callers may write, and no rates apply: one person's machine
	PublicURL    string        // of the service; problem types start with it
	Registry     string        // host that claims are placed in; "" when there is none
	RegisterWait time.Duration // how long a registration is waited for before 202; 0: 10 s
	Limits       Limits
	OpenPulls    bool // the registry shows everybody what was pushed to it
	EvidenceHere bool // whoever sees a claim may have its evidence from here, also what no registry has yet

	TrustedProxies []netip.Prefix                  // whose X-Forwarded-For is believed
	Ready          func(ctx context.Context) error // would a registration be accepted now? nil: always
	Witnesses      Witnesses                       // nil: /log/checkpoint is the Ledger's
	Log            *slog.Logger                    // nil: silent
	Clock          func() time.Time                // nil: time.Now
}

// Witnesses have cosigned checkpoints of the Ledger.
type Witnesses interface {
	// Checkpoint returns the newest checkpoint that has its quorum of
	// cosignatures; nil: none has.
	Checkpoint(ctx context.Context) ([]byte, error)
	Cosigned() apitype.Cosigned
}

// API serves SCRAPI, /v1 and /log. Safe for concurrent use.
type API struct {
	Config
	base    string // PublicURL without a trailing slash
	log     *slog.Logger
	callers *Callers
	router  *chi.Mux

	addresses addresses
	byAddress *buckets[netip.Addr] // callers without a token that was seen lately
	byCaller  *buckets[[32]byte]   // the others, by the hash of their token
	byPusher  *buckets[[32]byte]   // the same, for what they push to the registry
	pulls     *buckets[netip.Addr] // what an address reads from the registry
	readiness readiness
	inFlight  chan struct{}       // one element per request being served; nil: unbounded
	batches   chan struct{}       // the same for batches alone, half as many
	batchRoom *semaphore.Weighted // in bytes, for the items of batches that are being registered
	crowd     atomic.Int64        // bytes of batches that wait for it
	away      away
	crew      crew
}

// readiness is the last answer to whether a registration would be accepted.
type readiness struct {
	sync.Mutex // held while it is found out
	err        error
	until      time.Time
}

// New returns an API.
func New(c Config) *API {
	if c.RegisterWait <= 0 {
		c.RegisterWait = 10 * time.Second
	}
	if c.Custodian == nil {
		c.Custodian = nobody{c.Ledger}
	}
	if c.Ready == nil {
		c.Ready = func(context.Context) error { return nil }
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	c.Limits = c.Limits.completed()
	if c.OpenWrites {
		c.Limits.AddressRate, c.Limits.CallerRate, c.Limits.PushRate, c.Limits.PullRate = 0, 0, 0, 0
	}
	a := &API{
		Config: c, base: strings.TrimSuffix(c.PublicURL, "/"), log: c.Log,
		callers:   NewCallers(c.Tokens, c.Clock),
		addresses: addresses{c.TrustedProxies},
		byAddress: newBuckets[netip.Addr](c.Limits.AddressRate, c.Limits.AddressBurst),
		byCaller:  newBuckets[[32]byte](c.Limits.CallerRate, c.Limits.CallerBurst),
		byPusher:  newBuckets[[32]byte](c.Limits.PushRate, c.Limits.PushBurst),
		pulls:     newBuckets[netip.Addr](c.Limits.PullRate, c.Limits.PullBurst),
		batchRoom: semaphore.NewWeighted(batchRoom),
	}
	if c.Limits.InFlight > 0 {
		a.inFlight = make(chan struct{}, c.Limits.InFlight)
		a.batches = make(chan struct{}, max(1, c.Limits.InFlight/2))
	}
	a.crew = make(crew)
	a.away.bodies = a.turnedAwayWith()
	a.router = a.routes()
	return a
}

func (a *API) routes() *chi.Mux {
	r := chi.NewRouter()
	r.NotFound(a.notFound)
	r.MethodNotAllowed(a.methodNotAllowed)
	get := func(path string, h http.HandlerFunc) {
		r.Get(path, h)
		r.Head(path, h)
	}

	// SCRAPI: these four are all there are.
	r.Post("/entries", a.writing(quick, a.register))
	get("/entries/{id}", a.reading(a.resolve))
	get("/.well-known/scitt-keys", a.open(a.keySet))
	get("/.well-known/scitt-keys/{kid}", a.open(a.key))

	get("/v1/entries", a.reading(func(w http.ResponseWriter, r *http.Request, c Caller) error { return a.find(w, r, c, "") }))
	get("/v1/entries/{id}", a.reading(a.entry))
	get("/v1/entries/{id}/statement", a.reading(a.statement))
	get("/v1/entries/{id}/receipt", a.reading(a.receipt))
	get("/v1/entries/{id}/transparent", a.reading(a.transparent))
	get("/v1/entries/{id}/collateral", a.reading(a.collateral))
	get("/v1/entries/{id}/deliveries", a.reading(a.deliveries))
	get("/v1/entries/{id}/evidence", a.downloading(a.evidence))
	r.Post("/v1/entries/{id}/evidence:purge", a.purging(a.purge))
	r.Put("/v1/indexes/{digest}", a.writing(quick, a.keepIndex))
	get("/v1/service", a.open(a.service))
	get("/v1/policy", a.open(a.policy))
	get("/v1/policy/refusals", a.reading(a.refusalCounts))
	r.Post("/v1/entries:batch", a.writing(bulk, a.registerBatch))
	r.Post("/v1/entries:validate", a.reading(a.validate))
	get("/v1/refusals", a.reading(a.refusals))
	get("/v1/check", a.reading(a.check))
	r.Post("/v1/check", a.reading(a.check))
	if a.Staging != nil {
		r.Put("/v1/evidence/{digest}", a.writing(streamed, a.stage))
	}

	// The public log: C2SP tlog-tiles, and what COSE adds to it.
	get("/log/checkpoint", a.open(a.checkpoint))
	get("/log/tile/*", a.open(a.tile))
	get("/log/heads", a.open(a.heads))
	get("/log/consistency", a.open(a.consistency))
	get("/log/inclusion/{id}", a.reading(a.inclusion))
	get("/v1/statements", a.reading(a.statements))
	if a.Decisions != nil {
		get("/v1/decisions", a.reading(a.decisions))
	}

	get("/problems/{code}", a.open(a.problemPage))
	get("/healthz", a.healthy)
	get("/readyz", a.healthy)
	get("/readyz/write", a.readyToWrite)
	return r
}

// ServeHTTP answers everything but /v2, which is the registry's.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.guard(w, r, a.router.ServeHTTP)
}

// Identify tells who sends r, for handlers beside this API. It counts nothing.
func (a *API) Identify(r *http.Request) (Caller, error) {
	if c, ok := vouched(r); ok {
		return c, nil
	}
	return a.callers.Identify(r)
}

// Authorize says whether r may go on, for handlers beside this API: nil,
// ErrUnauthenticated, ErrForbidden, a *RateLimited, or an error of the store. A
// write needs a caller who may publish. A read needs nothing, only a token that
// is presented has to be right; and since reads there never depend on the
// ledger, its store being away is no obstacle to them.
func (a *API) Authorize(r *http.Request, write bool) error {
	if !write {
		if _, err := a.callers.Identify(r); errors.Is(err, ErrUnauthenticated) {
			return err
		}
		return nil
	}
	if a.ReadOnly {
		return &fault{code: "read-only"}
	}
	c, err := a.admitPush(r)
	if err != nil {
		return err
	}
	return a.mayPublish(c)
}

// pace is how long a request and its answer may take on the wire.
type pace struct{ read, write time.Duration }

var (
	// Writing may take as long after reading: else the answer to a body that
	// does not come would be due when its own time is up.
	brief    = pace{10 * time.Second, 40 * time.Second} // queries, receipts
	quick    = pace{30 * time.Second, 60 * time.Second} // one statement
	bulk     = pace{60 * time.Second, 90 * time.Second} // a batch of them
	streamed = pace{}                                   // the handler renews it while bytes flow
)

// open wraps an endpoint that is the same for everybody.
func (a *API) open(h func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return a.endpoint(brief, func(w http.ResponseWriter, r *http.Request) error {
		if err := a.byAddress.take(a.addresses.client(r), a.Clock()); err != nil {
			return err
		}
		return h(w, r)
	})
}

// reading wraps an endpoint that shows what its caller may see.
func (a *API) reading(h func(http.ResponseWriter, *http.Request, Caller) error) http.HandlerFunc {
	return a.endpoint(brief, func(w http.ResponseWriter, r *http.Request) error {
		c, err := a.admit(r)
		if err != nil {
			return err
		}
		return h(w, r, c)
	})
}

// writing wraps an endpoint for callers who may publish. It asks before a byte
// of the body is read.
func (a *API) writing(p pace, h func(http.ResponseWriter, *http.Request, Caller) error) http.HandlerFunc {
	return a.endpoint(p, func(w http.ResponseWriter, r *http.Request) error {
		if a.ReadOnly {
			return &fault{code: "read-only"}
		}
		c, err := a.admit(r)
		if err != nil {
			return err
		}
		if err := a.mayPublish(c); err != nil {
			return err
		}
		return h(w, r, c)
	})
}

// endpoint bounds how many requests are served at once and how long each may
// take, and answers with the problem of an error.
func (a *API) endpoint(p pace, h func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		leave, ok := enter(a.inFlight)
		if !ok {
			a.fail(w, r, &fault{code: "overloaded"})
			return
		}
		defer leave()
		p.set(w)
		if err := h(w, r); err != nil {
			a.fail(w, r, err)
		}
	}
}

// enter takes one of the places there are in served, if one is free; nil has
// places for everybody.
func enter(served chan struct{}) (leave func(), ok bool) {
	if served == nil {
		return func() {}, true
	}
	select {
	case served <- struct{}{}:
		return func() { <-served }, true
	default:
		return nil, false
	}
}

// set starts the clock of a connection. Connections that have none, as in
// tests without a network, go without.
func (p pace) set(w http.ResponseWriter) {
	c, now := http.NewResponseController(w), time.Now()
	if p.read > 0 {
		c.SetReadDeadline(now.Add(p.read))
	}
	if p.write > 0 {
		c.SetWriteDeadline(now.Add(p.write))
	}
}

// admit identifies the caller and counts the request: against the token when
// it is known, else against the address. Guessing tokens costs what being
// anonymous costs, and is counted before the store is asked.
func (a *API) admit(r *http.Request) (Caller, error) { return a.admitBy(r, a.byCaller) }

func (a *API) admitBy(r *http.Request, rates *buckets[[32]byte]) (Caller, error) {
	now := a.Clock()
	if c, ok := vouched(r); ok {
		// A registry that is open to all is content with any credentials.
		if c.anonymous() || !rates.knows(c.token) {
			if err := a.byAddress.take(a.addresses.client(r), now); err != nil || c.anonymous() {
				return c, err
			}
		}
		return c, rates.take(c.token, now)
	}
	if !a.callers.sawLately(r) {
		if err := a.byAddress.take(a.addresses.client(r), now); err != nil {
			return Caller{}, err
		}
	}
	c, err := a.callers.Identify(r)
	if err != nil || c.anonymous() {
		return c, err
	}
	return c, rates.take(c.token, now)
}

func (a *API) mayPublish(c Caller) error {
	switch {
	case c.Publish, c.anonymous() && a.OpenWrites:
		return nil
	case c.anonymous():
		return &fault{code: "unauthenticated", detail: "Writing needs a token with the scope publish.", hint: "send it as Authorization: Bearer <token>"}
	}
	return &fault{code: "forbidden", detail: "Writing needs a token with the scope publish."}
}

// guard serves r and turns a panic into an answer. When the answer had begun
// already, the connection is cut instead, so that nobody takes half for whole.
func (a *API) guard(w http.ResponseWriter, r *http.Request, next http.HandlerFunc) {
	answer := &response{ResponseWriter: w}
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		if p == http.ErrAbortHandler {
			panic(p)
		}
		f := panicked(p)
		if answer.begun {
			a.trace(r, problem(f.code), f)
			panic(http.ErrAbortHandler)
		}
		clear(w.Header())
		a.fail(w, r, f)
	}()
	next(answer, r)
}

// panicked is the fault of a panic with p, made where it is recovered.
func panicked(p any) *fault {
	return &fault{code: "internal", cause: fmt.Errorf("panic: %v\n%s", p, debug.Stack())}
}

// response remembers whether an answer has begun.
type response struct {
	http.ResponseWriter
	begun bool
}

func (w *response) WriteHeader(status int) {
	w.begun = true
	w.ResponseWriter.WriteHeader(status)
}

func (w *response) Write(b []byte) (int, error) {
	w.begun = true
	return w.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (a *API) notFound(w http.ResponseWriter, r *http.Request) {
	a.fail(w, r, &fault{code: "not-found"})
}

// methodNotAllowed lists the methods that the path has (RFC 9110 §15.5.6).
func (a *API) methodNotAllowed(w http.ResponseWriter, r *http.Request) {
	path := r.URL.EscapedPath()
	var allowed []string
	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut} {
		if a.router.Match(chi.NewRouteContext(), method, path) {
			allowed = append(allowed, method)
		}
	}
	if allowed == nil {
		a.notFound(w, r) // a method that no path here has, on no path
		return
	}
	w.Header().Set("Allow", strings.Join(allowed, ", "))
	a.fail(w, r, &fault{code: "method-not-allowed"})
}

// arrival is how long a body may take where no route says otherwise. It also
// ends the wait for bodies that nobody reads: net/http drains them before it
// answers a 404.
const arrival = 30 * time.Second

// NewServer returns an http.Server for handler with the limits that protect
// one in the open. Routes set times of their own; a registry streams and renews
// its deadline while bytes flow.
func NewServer(handler http.Handler) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       arrival,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10, // net/http allows 4 KiB more
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: 100},

		DisableGeneralOptionsHandler: true, // OPTIONS * gets an answer like any other
	}
}
