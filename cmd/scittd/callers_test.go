package main

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/scittd/scittd/storage/embedded"
)

func TestCallersOfTheRegistryAreToldToTryAgainWhileTheLogIsAway(t *testing.T) {
	callers := new(service).callers() // the log has not been opened yet
	r := httptest.NewRequest("GET", "/v2/a/blobs/uploads/b", nil)
	refusal := (*embedded.Error)(nil)
	if name, err := callers.Name(r); !errors.As(err, &refusal) || refusal.Status != http.StatusServiceUnavailable {
		t.Errorf("%q, %v, want 503", name, err)
	}
	if err := callers.Pace(r); err != nil {
		t.Errorf("a read: %v", err)
	}
}
