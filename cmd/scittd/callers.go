package main

import (
	"errors"
	"net/http"

	"github.com/scittd/scittd/api"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/storage/embedded"
)

// callers tells the embedded registry whom it serves: uploads belong to tokens,
// and reading is counted by address. Pulls go on while the log is away.
func (s *service) callers() embedded.Callers {
	return embedded.Callers{
		Name: func(r *http.Request) (string, error) {
			name, err := "", error(ledger.ErrUnavailable)
			if a := s.api.Load(); a != nil {
				name, err = a.CallerName(r)
			}
			switch {
			case errors.Is(err, api.ErrUnauthenticated):
				return "", &embedded.Error{Status: http.StatusUnauthorized, Code: "UNAUTHORIZED", Message: err.Error()}
			case errors.Is(err, ledger.ErrUnavailable):
				return "", &embedded.Error{
					Status: http.StatusServiceUnavailable, Code: "UNKNOWN", Message: "the credentials could not be checked, try again",
				}
			}
			return name, err
		},
		Pace: func(r *http.Request) error {
			limited := (*api.RateLimited)(nil)
			if a := s.api.Load(); a == nil || !errors.As(a.AdmitPull(r), &limited) {
				return nil
			}
			return &embedded.Error{
				Status: http.StatusTooManyRequests, Code: "TOOMANYREQUESTS", Message: "too many requests", RetryAfter: limited.After,
			}
		},
	}
}
