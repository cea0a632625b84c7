package storage_test

import (
	"bytes"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/scittd/scittd/storage"
)

func TestAnArchivedArtifactRefersToNothingAndIsFoundByItsTag(t *testing.T) {
	for _, r := range realRegistries[:2] {
		t.Run(r.name, func(t *testing.T) {
			repo := open(t, r.start(t), storage.RemoteOptions{})
			tag := strings.Repeat("5a", 32)
			artifact := storage.Transparency{
				Transparent: []byte("transparent statement"), Receipt: []byte("receipt"),
				Entry: tag, Log: "log.example", Created: "2026-11-03T12:00:00Z",
			}
			first, err := storage.PlaceArchive(t.Context(), repo, tag, artifact)
			if err != nil {
				t.Fatal(err)
			}
			desc, body, err := repo.Manifest(t.Context(), tag)
			if err != nil || desc.Digest != first || bytes.Contains(body, []byte(`"subject"`)) {
				t.Fatalf("tag leads to %+v, %v\n%s", desc, err, body)
			}
			for _, part := range [][]byte{artifact.Transparent, artifact.Receipt} {
				if _, there, err := repo.HasBlob(t.Context(), digest.FromBytes(part).String()); err != nil || !there {
					t.Errorf("no blob %q: %v", part, err)
				}
			}
			// Whoever moves the tag is put right.
			if err := storage.PutTagged(t.Context(), repo, tag, "application/x-other", []byte("{}")); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if again, err := storage.PlaceArchive(t.Context(), repo, tag, artifact); err != nil || again != first {
					t.Errorf("again: %s, %v; want %s", again, err, first)
				}
			}
			if desc, _, err := repo.Manifest(t.Context(), tag); err != nil || desc.Digest != first {
				t.Errorf("in the end the tag leads to %+v, %v", desc, err)
			}
			if _, err := storage.PlaceArchive(t.Context(), repo, tag, storage.Transparency{Entry: tag}); err == nil {
				t.Error("an artifact without statement and receipt is archived")
			}
		})
	}
}

func TestARegistryThatIsNotThereIsInTrouble(t *testing.T) {
	host := serve(t, http.NotFoundHandler())
	repo := open(t, host, storage.RemoteOptions{})
	if _, _, err := repo.Manifest(t.Context(), "v1"); !errors.Is(err, storage.ErrNotFound) || errors.Is(err, storage.ErrTrouble) {
		t.Errorf("an answer: %v", err)
	}
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	repo = open(t, strings.TrimPrefix(gone.URL, "http://"), storage.RemoteOptions{})
	if _, _, err := repo.Manifest(t.Context(), "v1"); !errors.Is(err, storage.ErrTrouble) {
		t.Errorf("no answer: %v, want ErrTrouble", err)
	}
}
