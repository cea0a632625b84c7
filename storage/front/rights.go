package front

import (
	"container/list"
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"
)

// May says whether the registry lets the caller of r read a repository, or push
// to it: nil, or what to answer. The registry is asked, with the caller's own
// credentials and by doing: it shows a tag, or opens an upload that is cancelled
// at once. Only a yes is remembered, for a minute at most; what is no clear
// answer is never one.
func (u *Upstream) May(r *http.Request, repository string, push bool) error {
	if !validName(repository) {
		return &refusal{status: http.StatusBadRequest, code: "NAME_INVALID", message: "this is not a repository name"}
	}
	key := rightOf(r, repository, push)
	if u.rights.has(key, time.Now()) {
		return nil
	}
	ctx, cancel := context.WithTimeout(r.Context(), askTime)
	defer cancel()
	resp, err := u.probe(ctx, r, repository, push)
	if err != nil {
		u.log.Warn("rights not learned from the registry", "repository", repository, "err", err)
		return unclear("")
	}
	defer discard(resp)
	switch status := resp.StatusCode; {
	case status >= 200 && status < 300:
		u.rights.put(key, time.Now())
		return nil
	case status == http.StatusUnauthorized:
		if err := u.challenges(resp, originOf(r)); err != nil {
			u.log.Warn("registry's answer withheld", "repository", repository, "why", err)
			return unclear("")
		}
		return &refusal{status: status, code: "UNAUTHORIZED", message: "the registry asks for credentials", header: http.Header{
			"Www-Authenticate": resp.Header["Www-Authenticate"],
		}}
	case status == http.StatusForbidden, status == http.StatusMethodNotAllowed:
		return &refusal{status: http.StatusForbidden, code: "DENIED", message: fmt.Sprintf("the registry does not allow it (%d)", status)}
	case status == http.StatusNotFound:
		return &refusal{status: status, code: "NAME_UNKNOWN", message: "the registry shows no such repository"}
	}
	u.log.Warn("rights not learned from the registry", "repository", repository, "status", resp.StatusCode)
	return unclear(resp.Header.Get("Retry-After"))
}

func (u *Upstream) probe(ctx context.Context, r *http.Request, repository string, push bool) (*http.Response, error) {
	credentials := r.Header["Authorization"]
	if !push {
		return u.ask(ctx, r, http.MethodGet, "/v2/"+repository+"/tags/list?n=1", credentials)
	}
	resp, err := u.ask(ctx, r, http.MethodPost, "/v2/"+repository+"/blobs/uploads/", credentials)
	if err != nil || resp.StatusCode != http.StatusAccepted {
		return resp, err
	}
	path, elsewhere, err := u.ours(resp.Header.Get("Location"), originOf(r))
	if err != nil || elsewhere != nil || !strings.HasPrefix(path, "/v2/"+repository+"/") {
		return resp, nil // it expires by itself
	}
	if cancelled, err := u.ask(ctx, r, http.MethodDelete, path, credentials); err == nil {
		discard(cancelled)
	}
	return resp, nil
}

// refusal is an error that knows its answer.
type refusal struct {
	status        int
	code, message string
	header        http.Header
}

func (e *refusal) Error() string { return e.message }

func (e *refusal) answer(w http.ResponseWriter) {
	for name, values := range e.header {
		w.Header()[name] = values
	}
	answer(w, e.status, e.code, e.message)
}

// unclear is the answer when the registry gave none.
func unclear(retryAfter string) error {
	if retryAfter == "" {
		retryAfter = "1"
	}
	return &refusal{
		status: http.StatusServiceUnavailable, code: "UNKNOWN", message: "the registry does not say whether you may, try again",
		header: http.Header{"Retry-After": {retryAfter}},
	}
}

// rights are what the registry has lately allowed to whom, by hash of the
// credentials. Safe for concurrent use.
type rights struct {
	mu    sync.Mutex
	known map[right]*list.Element // of order
	order list.List               // of grant, oldest in front
}

type right [sha256.Size]byte

type grant struct {
	right
	until time.Time
}

const (
	rightTime = time.Minute
	maxRights = 10_000
)

func rightOf(r *http.Request, repository string, push bool) right {
	return sha256.Sum256(fmt.Appendf(nil, "%t %s\n%q\n%s", push, repository, r.Header["Authorization"], r.Host))
}

func (s *rights) has(k right, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.known[k]
	return ok && now.Before(e.Value.(grant).until)
}

func (s *rights) put(k right, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.known[k]; ok {
		s.order.Remove(e)
	} else if s.known == nil {
		s.known = map[right]*list.Element{}
	}
	s.known[k] = s.order.PushBack(grant{k, now.Add(rightTime)})
	for first := s.order.Front(); first != nil && (s.order.Len() > maxRights || !now.Before(first.Value.(grant).until)); first = s.order.Front() {
		delete(s.known, s.order.Remove(first).(grant).right)
	}
}

// isOwn: r presents a credential of this service, not of the registry.
func isOwn(r *http.Request, prefix string) bool {
	if prefix == "" {
		return false
	}
	for _, v := range r.Header["Authorization"] {
		scheme, token, _ := strings.Cut(v, " ")
		if strings.EqualFold(scheme, "Bearer") && strings.HasPrefix(strings.TrimSpace(token), prefix) {
			return true
		}
	}
	_, password, _ := r.BasicAuth()
	return strings.HasPrefix(password, prefix)
}

var errOwn = &refusal{
	status: http.StatusUnauthorized, code: "UNAUTHORIZED", message: "this is a token of scittd; the registry behind it has credentials of its own",
	header: http.Header{"Www-Authenticate": {`Basic realm="registry"`}},
}
