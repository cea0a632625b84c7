package front

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/scittd/scittd/storage"
)

// What becomes of a statement that a client pushes as a referrer, and that is
// refused.
const (
	PushOff     = "off"     // statements are pushed like anything else
	PushObserve = "observe" // the push succeeds, the refusal is noted
	PushGate    = "gate"    // the push is denied and nothing is stored
)

// What becomes of a transparency artifact that a client pushes: most likely a
// copy, made elsewhere.
const (
	ForeignPass     = "pass"     // it is stored, and nothing is registered
	ForeignDeny     = "deny"     // it is denied
	ForeignRegister = "register" // the statement in it is registered here, too
)

// PushConfig is what Pushes needs.
type PushConfig struct {
	Service PushService

	// Mode is PushOff, PushObserve or PushGate of a repository, Foreign
	// ForeignPass, ForeignDeny or ForeignRegister. nil: observe and pass.
	Mode, Foreign func(repository string) string

	// May says whether a caller may push to a repository, before anything is
	// done for it. nil: who is not allowed has not come this far.
	May func(r *http.Request, repository string, push bool) error

	MaxStatement int64         // bytes; 0: 1 MiB
	Wait         time.Duration // how long a push waits for what will hang beside it; 0: 2 s
	Log          *slog.Logger  // nil: silent
}

// PushService knows what statements are. Its methods are safe for concurrent use.
type PushService interface {
	// Detached: to judge the statement, the evidence beside it has to be read. What
	// is no statement may be called either.
	Detached(statement []byte) bool

	// Judge says what Register would, and changes nothing: nil, a *PushRefusal,
	// or an error after which trying again may help.
	Judge(ctx context.Context, p Pushed) error

	// Register registers, or finds registered, and returns the entry. Errors are
	// Judge's. It bounds its own time, for ctx is not the client's; what it does
	// not come to may be registered all the same.
	Register(ctx context.Context, p Pushed) (entry string, err error)

	// Refused notes that p was stored and not registered, and why.
	Refused(ctx context.Context, p Pushed, why *PushRefusal) error

	// Placed returns once what belongs beside p is there, or ctx ends.
	Placed(ctx context.Context, p Pushed, entry string)
}

// Pushed is a statement on its way into a repository.
type Pushed struct {
	Request    *http.Request // who pushes it
	Repository string
	Manifest   string // digest of the manifest it comes in
	Image      string // digest of what that refers to
	Statement  []byte
	Evidence   string // digest of a detached payload, where the manifest names it; else ""
	Payload    []byte // that payload, where it is in the repository; else nil
}

// PushRefusal says why a statement is not registered.
type PushRefusal struct {
	Code, Rule, Reason, Hint string
	Policy                   string // entry of the policy that refuses; "": no policy was asked

	// Malformed: it is no policy's decision. This is no statement, or one about
	// something else than it is pushed for, and nobody takes it.
	Malformed bool
}

func (e *PushRefusal) Error() string { return e.Reason }

// pushRoom bounds the statements and payloads of pushes in hand, in bytes.
const pushRoom = 64 << 20

// Pushes is a hook that registers Signed Statements which clients push as
// referrers, with whatever client:
//
//	oras attach --artifact-type application/scitt-statement+cose IMAGE claim.cose:application/scitt-statement+cose
//
// The manifest goes to the registry with its pusher's own credentials, and is
// stored there like any other; once it is, the statement is registered, and only
// then the push is answered, with the entry in the header Scitt-Entry. What
// happens on the way leaves one of three things behind: nothing; a manifest
// without an entry, which another push or a backfill registers; or both. A push
// may be repeated at any time. What this service itself hangs on images has
// another type and never comes back here.
//
// A statement that the policy refuses is let pass or not as the repository's
// mode says. What is no statement, or contradicts the manifest it comes in, is
// refused as a bad manifest in either mode.
func Pushes(c PushConfig) Hook {
	constant := func(s string) func(string) string { return func(string) string { return s } }
	if c.Mode == nil {
		c.Mode = constant(PushObserve)
	}
	if c.Foreign == nil {
		c.Foreign = constant(ForeignPass)
	}
	if c.MaxStatement <= 0 {
		c.MaxStatement = 1 << 20
	}
	if c.Wait <= 0 {
		c.Wait = 2 * time.Second
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	p := &pushes{PushConfig: c, room: semaphore.NewWeighted(pushRoom)}
	return p.serve
}

type pushes struct {
	PushConfig
	room *semaphore.Weighted
}

func (p *pushes) serve(w http.ResponseWriter, r *Request, next func(http.ResponseWriter)) {
	s, ok, err := storage.ParseSubmission(r.Manifest)
	mode := PushOff
	if ok {
		mode = p.Mode(r.Repository)
	}
	if ok && s.Type == storage.TransparencyType {
		switch foreign := p.Foreign(r.Repository); {
		case foreign == ForeignDeny:
			answer(w, http.StatusForbidden, "DENIED", "this repository takes no transparency artifacts of other services")
			return
		case foreign == ForeignPass:
			mode = PushOff
		case mode == PushOff: // asked for, all the same
			mode = PushObserve
		}
	}
	if mode == PushOff {
		next(w)
		return
	}
	if err != nil {
		err = badManifest("%v", err)
	} else {
		err = p.push(w, r, s, mode, next)
	}
	if err != nil {
		p.refuse(w, r, err)
	}
}

// push is the story of one registration by push.
func (p *pushes) push(w http.ResponseWriter, r *Request, s storage.Submission, mode string, next func(http.ResponseWriter)) error {
	// 1. Nothing is read or computed for who may not push here.
	if p.May != nil {
		if err := p.May(r.HTTP, r.Repository, true); err != nil {
			return err
		}
	}
	// 2. The statement, as its pusher may read it.
	pushed, release, err := p.read(r, s)
	if err != nil {
		return err
	}
	defer release()
	// 3. What will be decided about it?
	ctx := r.HTTP.Context()
	var refusal *PushRefusal
	if err := p.Service.Judge(ctx, pushed); err != nil && (!errors.As(err, &refusal) || refusal.Malformed || mode == PushGate) {
		return err
	}
	// 4. The registry decides whether it takes the manifest.
	stored, err := Hold(next)
	if err != nil {
		return err
	}
	if stored.Status < 200 || stored.Status > 299 {
		stored.Release(w)
		return nil
	}
	// 5. From here on the manifest is there, whatever happens, and who hangs up
	// does not keep it from being registered.
	ctx = context.WithoutCancel(ctx)
	entry := ""
	if refusal == nil {
		entry, err = p.Service.Register(ctx, pushed)
		if err != nil && !errors.As(err, &refusal) {
			return fmt.Errorf("stored, but not registered: %w", err)
		}
	}
	if refusal != nil { // also: only now, by a policy that came in between
		if err := p.Service.Refused(ctx, pushed, refusal); err != nil {
			p.Log.WarnContext(ctx, "refusal of a pushed statement not noted", "repository", r.Repository, "manifest", pushed.Manifest, "reason", refusal.Reason, "err", err)
		}
		if mode == PushGate {
			return refusal
		}
		stored.Header.Add("Warning", warning("stored, but not registered: "+refusal.Reason))
		stored.Release(w)
		return nil
	}
	// 6. Who lists the referrers next finds the receipt among them. It is also
	// before a client writes the referrers tag, which it does behind its push.
	wait, cancel := context.WithTimeout(r.HTTP.Context(), p.Wait)
	defer cancel()
	p.Service.Placed(wait, pushed, entry)
	stored.Header.Set("Scitt-Entry", entry)
	stored.Release(w)
	return nil
}

// warning is a Warning header.
// SPEC distribution-spec 1.1, "Warnings": `299 - "text"`, visible ASCII and no
// unescaped quotes.
func warning(text string) string {
	text = strings.Map(func(r rune) rune {
		switch {
		case r == '"' || r == '\\':
			return '\''
		case r < ' ' || r > '~':
			return '?'
		}
		return r
	}, text)
	if len(text) > 400 {
		text = text[:400] + "..."
	}
	return `299 - "` + text + `"`
}

// refuse answers a push that ended early.
func (p *pushes) refuse(w http.ResponseWriter, r *Request, err error) {
	var bad *refusal
	var limited *RateLimited
	var theirs *registryAnswer
	var refused *PushRefusal
	switch {
	case errors.As(err, &bad):
		bad.answer(w)
	case errors.As(err, &limited):
		new(front).refuse(w, limited)
	case errors.As(err, &theirs):
		theirs.Release(w)
	case errors.As(err, &refused):
		status, code := http.StatusForbidden, "DENIED"
		if refused.Malformed {
			status, code = http.StatusBadRequest, "MANIFEST_INVALID"
		}
		writeJSON(w, status, map[string]any{"errors": []map[string]any{{
			"code": code, "message": "the statement is not registered: " + refused.Reason,
			"detail": map[string]string{
				"code": refused.Code, "rule": refused.Rule, "reason": refused.Reason, "hint": refused.Hint, "policyEntry": refused.Policy,
			},
		}}})
	case r.HTTP.Context().Err() != nil: // nobody reads the answer
		panic(http.ErrAbortHandler)
	default:
		p.Log.Warn("statement not registered", "repository", r.Repository, "reference", r.Reference, "err", err)
		w.Header().Set("Retry-After", "1")
		answer(w, http.StatusServiceUnavailable, "UNKNOWN", "the statement could not be registered, push it again")
	}
}
