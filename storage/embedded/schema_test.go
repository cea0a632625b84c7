package embedded_test

import (
	"database/sql"
	"path/filepath"
	"testing"

	"github.com/scittd/scittd/storage/embedded"
)

func TestRegistryOfAnEarlierVersionGoesOn(t *testing.T) {
	dir := t.TempDir()
	blob, manifest := []byte("{}"), indexOf()
	if err := embedded.MakeVersion1(dir, blob, manifest, "0123456789abcdef"); err != nil {
		t.Fatal(err)
	}
	s := serve(t, dir)
	if got, want := s.Usage(), int64(len(blob)+len(manifest)+7); got != want {
		t.Errorf("%d bytes are in use, want %d", got, want)
	}
	s.want(200, "", "HEAD", "/v2/r/blobs/"+sha(blob), nil)
	if a := s.want(200, "", "GET", "/v2/r/manifests/"+sha(manifest), nil); string(a.body) != string(manifest) {
		t.Errorf("the manifest is %s", a.body)
	}
	at := "/v2/r/blobs/uploads/0123456789abcdef"
	if a := s.want(204, "", "GET", at, nil); a.header.Get("Range") != "0-6" {
		t.Errorf("the upload is at %q, want 0-6", a.header.Get("Range"))
	}
	s.want(204, "", "DELETE", at, nil)
	s.want(202, "", "DELETE", "/v2/r/manifests/"+sha(manifest), nil)
	s.want(202, "", "DELETE", "/v2/r/blobs/"+sha(blob), nil)
	if got := s.Usage(); got != 0 {
		t.Errorf("after deleting everything %d bytes are in use", got)
	}
}

func TestRegistryOfALaterVersionIsRefused(t *testing.T) {
	dir := t.TempDir()
	r, err := embedded.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", filepath.Join(dir, "registry.db"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec("PRAGMA user_version = 99"); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if r, err := embedded.Open(dir); err == nil {
		r.Close()
		t.Error("a database of version 99 was opened")
	}
}
