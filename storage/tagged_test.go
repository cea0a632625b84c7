package storage_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/scittd/scittd/storage"
)

const headType = "application/vnd.scittd.head+json"

func TestATagSaysWhatWasPutThereLast(t *testing.T) {
	for _, r := range realRegistries {
		t.Run(r.name, func(t *testing.T) {
			repo := open(t, r.start(t), storage.RemoteOptions{PlainHTTP: true})
			// A registry that all tests share may have a tag of another run.
			const tag = "scitt-log"
			if got, err := storage.GetTagged(t.Context(), repo, "never-put", headType); !errors.Is(err, storage.ErrNotFound) {
				t.Fatalf("%q, %v; want ErrNotFound", got, err)
			}
			for _, content := range []string{`{"size": 2}`, `{"size": 3}`, `{"size": 2}`} {
				for range 2 { // putting the same again is fine
					if err := storage.PutTagged(t.Context(), repo, tag, headType, []byte(content)); err != nil {
						t.Fatal(err)
					}
				}
				if got, err := storage.GetTagged(t.Context(), repo, tag, headType); err != nil || string(got) != content {
					t.Errorf("%q, %v; want %q", got, err, content)
				}
			}
			if _, err := storage.GetTagged(t.Context(), repo, tag, "application/x-other"); err == nil || errors.Is(err, storage.ErrNotFound) || !strings.Contains(err.Error(), headType) {
				t.Errorf("asked for another type: %v; want an error that names the one that is there", err)
			}
			if err := storage.PutTagged(t.Context(), repo, tag, headType, make([]byte, 2<<20)); err == nil {
				t.Error("2 MiB were put under a tag")
			}
		})
	}
}
