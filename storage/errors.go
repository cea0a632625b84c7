package storage

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"
)

// RetryError: the registry said when to come back (429 or 503 with
// Retry-After).
type RetryError struct {
	After time.Duration // 0 to 5 minutes
	Err   error
}

func (e *RetryError) Error() string {
	return fmt.Sprintf("%v, retry after %s", e.Err, e.After)
}
func (e *RetryError) Unwrap() error { return e.Err }

// ErrDenied: the registry lets nobody, or not this caller, do that; repeating it
// is useless until somebody grants the right.
var ErrDenied = errors.New("was denied")

// ErrTrouble is in errors that are not about one request: the registry does not
// answer, answers 5xx, or has had enough of us (429; also as a *RetryError).
// Whatever else is asked of it now will fare no better. Who schedules work
// should try little until something succeeds, or fails with another error of
// this package: those are answers, and so the registry is there.
var ErrTrouble = errors.New("the registry is in trouble")

// trouble makes an error one that is ErrTrouble, with its own words.
type trouble struct{ error }

func (t trouble) Unwrap() error      { return t.error }
func (trouble) Is(target error) bool { return target == ErrTrouble }

// maxRetryAfter keeps a registry from parking us: whatever it says, it is asked
// again after five minutes.
const maxRetryAfter = 5 * time.Minute

// retryAfter reads a Retry-After header: seconds or an HTTP date.
func retryAfter(header string, now time.Time) (time.Duration, bool) {
	header = strings.TrimSpace(header)
	if header == "" {
		return 0, false
	}
	if seconds, err := strconv.ParseUint(header, 10, 64); err == nil {
		return time.Duration(min(seconds, uint64(maxRetryAfter/time.Second))) * time.Second, true
	}
	if date, err := http.ParseTime(header); err == nil {
		return min(max(date.Sub(now), 0), maxRetryAfter), true
	}
	return 0, false
}

// failure turns what oras-go returned into one of this package's errors. It
// says what was attempted and what the registry answered, without the URL:
// upload and blob-store URLs carry session state and signatures.
func (r *repository) failure(right, attempt string, err error) error {
	if err == nil {
		return nil
	}
	if resp := (*errcode.ErrorResponse)(nil); errors.As(err, &resp) {
		answer := fmt.Sprintf("the registry answered %d%s", resp.StatusCode, words(resp.Errors))
		switch resp.StatusCode {
		case http.StatusUnauthorized, http.StatusForbidden:
			return fmt.Errorf("%s: %s repository %s %w: %s", attempt, right, r.name(), ErrDenied, answer)
		case http.StatusNotFound:
			return fmt.Errorf("%s: %w: %s", attempt, ErrNotFound, answer)
		case http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType:
			// A manifest whose blobs were swept in between is cured by pushing
			// them again, so it is not refused for good.
			if blobUnknown(err) {
				return fmt.Errorf("%s: %w: %s", attempt, ErrNotFound, answer)
			}
			return fmt.Errorf("%s: %w: %s", attempt, ErrRefused, answer)
		}
		err := fmt.Errorf("%s: %s", attempt, answer)
		if resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusRequestTimeout {
			return trouble{err}
		}
		return err
	}
	if errors.Is(err, errdef.ErrNotFound) {
		return fmt.Errorf("%s: %w", attempt, ErrNotFound)
	}
	if errors.Is(err, auth.ErrBasicCredentialNotFound) {
		return fmt.Errorf("%s: %s repository %s %w: no credentials for %s are configured", attempt, right, r.name(), ErrDenied, r.remote.host)
	}
	if sent := (*url.Error)(nil); errors.As(err, &sent) { // there was no answer
		return trouble{fmt.Errorf("%s: %w", attempt, sent.Err)}
	}
	return fmt.Errorf("%s: %w", attempt, err)
}

// registryErrors reads the body of a refusal; none, when it is something else.
func registryErrors(body io.Reader) errcode.Errors {
	var said struct {
		Errors errcode.Errors `json:"errors"`
	}
	text, err := io.ReadAll(io.LimitReader(body, 8<<10))
	if err != nil || json.Unmarshal(text, &said) != nil {
		return nil
	}
	return said.Errors
}

// words are the registry's own, cleaned and cut: they end up in logs and in the
// delivery that an operator reads.
func words(errs errcode.Errors) string {
	const longest = 300
	if len(errs) == 0 {
		return ""
	}
	text := []rune(strings.Map(func(c rune) rune {
		if unicode.IsControl(c) {
			return ' '
		}
		return c
	}, errs.Error()))
	if len(text) > longest {
		text = append(text[:longest], '…')
	}
	return " (" + string(text) + ")"
}

// blobUnknown tells whether the registry misses something that a manifest names.
func blobUnknown(err error) bool {
	resp := (*errcode.ErrorResponse)(nil)
	return errors.As(err, &resp) && slices.ContainsFunc(resp.Errors, func(e errcode.Error) bool {
		return e.Code == errcode.ErrorCodeManifestBlobUnknown || e.Code == errcode.ErrorCodeBlobUnknown || e.Code == errcode.ErrorCodeManifestUnknown
	})
}

// immutable tells whether the registry refuses a tag for pointing elsewhere
// already. There is no code for it: ECR says TAG_INVALID, Harbor 412, others 403
// or 409, and all of them say it in words.
func immutable(err error) bool {
	resp := (*errcode.ErrorResponse)(nil)
	if !errors.As(err, &resp) || resp.StatusCode < 400 || resp.StatusCode >= 500 {
		return false
	}
	text := strings.ToLower(resp.Errors.Error())
	return slices.ContainsFunc([]string{"immutable", "immutability", "cannot be overwritten", "already exists", "tag is locked"},
		func(words string) bool { return strings.Contains(text, words) })
}

// said is what the registry answered, for a message.
func said(err error) string {
	resp := (*errcode.ErrorResponse)(nil)
	if !errors.As(err, &resp) {
		return ""
	}
	return words(resp.Errors)
}

// status of the registry's answer, 0 if there was none.
func status(err error) int {
	if resp := (*errcode.ErrorResponse)(nil); errors.As(err, &resp) {
		return resp.StatusCode
	}
	return 0
}
