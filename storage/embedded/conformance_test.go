package embedded_test

import (
	"context"
	"testing"
	"time"

	"github.com/scittd/scittd/storage/registrytest"
)

func TestRegistryDoesWhatTheSpecificationSays(t *testing.T) {
	s, later := serveAt(t, t.TempDir())
	registrytest.Test(t, registrytest.Registry{URL: s.url})
	later(25 * time.Hour) // uploads that were refused stay open as long
	if err := s.Sweep(context.Background()); err != nil {
		t.Error(err)
	}
	if used := s.Usage(); used != 0 {
		t.Errorf("everything was deleted, and %d bytes are in use", used)
	}
}
