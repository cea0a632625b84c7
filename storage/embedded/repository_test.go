package embedded_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/scittd/scittd/storage"
)

func bytesOf(b []byte) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }
}

func TestRepositoryInProcessIsTheOneBehindHTTP(t *testing.T) {
	s := serve(t, t.TempDir())
	ctx := context.Background()
	repo, err := s.Repository("wabbit/net-monitor")
	if err != nil {
		t.Fatal(err)
	}
	evidence := []byte("{}")
	if err := repo.PushBlob(ctx, sha(evidence), 2, bytesOf(evidence)); err != nil {
		t.Fatal(err)
	}
	twice := func() (io.ReadCloser, error) { return nil, errors.New("opened though it is there already") }
	if err := repo.PushBlob(ctx, sha(evidence), 2, twice); err != nil {
		t.Error(err)
	}
	img, err := repo.PushManifest(ctx, ociManifest, image(nil), "v1")
	if err != nil {
		t.Fatal(err)
	}
	claim, err := repo.PushManifest(ctx, ociManifest, image(func(m map[string]any) {
		m["subject"], m["artifactType"], m["annotations"] = subject(img.Digest), "a/b", map[string]string{"k": "v"}
	}), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{"v1", img.Digest} {
		d, body, err := repo.Manifest(ctx, ref)
		if err != nil || d.Digest != sha(image(nil)) || d.MediaType != ociManifest || d.Size != int64(len(body)) || !bytes.Equal(body, image(nil)) {
			t.Errorf("%s: %+v %q %v", ref, d, body, err)
		}
	}
	list, err := repo.Referrers(ctx, img.Digest, "a/b")
	if err != nil || len(list) != 1 || list[0].Digest != claim.Digest || list[0].Annotations["k"] != "v" || list[0].ArtifactType != "a/b" {
		t.Errorf("referrers are %+v, %v", list, err)
	}
	if list, err := repo.Referrers(ctx, img.Digest, "c/d"); err != nil || len(list) != 0 {
		t.Errorf("referrers of another type are %+v, %v", list, err)
	}
	body, size, err := repo.Blob(ctx, sha(evidence))
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if got, err := io.ReadAll(body); err != nil || string(got) != "{}" || size != 2 {
		t.Errorf("blob is %q of %d, %v", got, size, err)
	}
	if size, ok, err := repo.HasBlob(ctx, sha(evidence)); size != 2 || !ok || err != nil {
		t.Errorf("HasBlob: %d %v %v", size, ok, err)
	}
	if got := s.referrers("wabbit/net-monitor", img.Digest, ""); !slices.Equal(got, []string{claim.Digest}) {
		t.Errorf("over HTTP the referrers are %v", got)
	}
}

func TestReferrersInProcessComeFromAllPages(t *testing.T) {
	s := serve(t, t.TempDir())
	s.blob("r", []byte("{}"))
	d := sha(image(nil))
	for i := range 3 {
		s.manifest("r", "", image(func(m map[string]any) {
			m["subject"] = subject(d)
			m["annotations"] = map[string]string{"n": fmt.Sprint(i), "text": string(bytes.Repeat([]byte("x"), 3<<20))}
		}))
	}
	repo, err := s.Repository("r")
	if err != nil {
		t.Fatal(err)
	}
	if list, err := repo.Referrers(context.Background(), d, ""); err != nil || len(list) != 3 {
		t.Errorf("%d of 3 referrers, %v", len(list), err)
	}
}

func TestRepositorySaysWhatIsAbsentAndWhatIsRefused(t *testing.T) {
	s := serve(t, t.TempDir())
	ctx := context.Background()
	if _, err := s.Repository("../etc"); !errors.Is(err, storage.ErrRefused) {
		t.Errorf("a repository ../etc opened: %v", err)
	}
	repo, err := s.Repository("r")
	if err != nil {
		t.Fatal(err)
	}
	absent := sha([]byte("absent"))
	for name, c := range map[string]struct {
		want error
		do   func() error
	}{
		"absent manifest": {storage.ErrNotFound, func() error { _, _, err := repo.Manifest(ctx, absent); return err }},
		"absent tag":      {storage.ErrNotFound, func() error { _, _, err := repo.Manifest(ctx, "v1"); return err }},
		"absent blob":     {storage.ErrNotFound, func() error { _, _, err := repo.Blob(ctx, absent); return err }},
		"bad reference":   {storage.ErrNotFound, func() error { _, _, err := repo.Manifest(ctx, "a/b"); return err }},
		"bad blob digest": {storage.ErrRefused, func() error { _, _, err := repo.Blob(ctx, "sha256:.."); return err }},
		"bad digest":      {storage.ErrRefused, func() error { _, _, err := repo.HasBlob(ctx, "x"); return err }},
		"bad subject":     {storage.ErrRefused, func() error { _, err := repo.Referrers(ctx, "x", ""); return err }},
		"bad push digest": {storage.ErrRefused, func() error { return repo.PushBlob(ctx, "x", 1, bytesOf(nil)) }},
		"other content":   {storage.ErrRefused, func() error { return repo.PushBlob(ctx, absent, 7, bytesOf([]byte("present"))) }},
		"longer content":  {storage.ErrRefused, func() error { return repo.PushBlob(ctx, absent, 3, bytesOf([]byte("absent"))) }},
		"bad tag":         {storage.ErrRefused, func() error { _, err := repo.PushManifest(ctx, ociManifest, image(nil), "sha256:x"); return err }},
		"no manifest":     {storage.ErrRefused, func() error { _, err := repo.PushManifest(ctx, ociManifest, nil, ""); return err }},
	} {
		if err := c.do(); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
	if _, ok, err := repo.HasBlob(ctx, absent); ok || err != nil {
		t.Errorf("absent blob: %v %v", ok, err)
	}
	// Nor is a blob whose source fails: another attempt may read it.
	gone := errors.New("staging is away")
	err = repo.PushBlob(ctx, absent, 6, func() (io.ReadCloser, error) {
		return io.NopCloser(io.MultiReader(strings.NewReader("abs"), readerFunc(func([]byte) (int, error) { return 0, gone }))), nil
	})
	if !errors.Is(err, gone) || errors.Is(err, storage.ErrRefused) {
		t.Errorf("a blob that cannot be read: %v", err)
	}
	// The blob may still come: not refused for good.
	if _, err := repo.PushManifest(ctx, ociManifest, image(nil), ""); err == nil || errors.Is(err, storage.ErrRefused) || errors.Is(err, storage.ErrNotFound) {
		t.Errorf("manifest before its blob: %v", err)
	}
}

func TestDamagedContentIsNotHandedOutInProcess(t *testing.T) {
	dir := t.TempDir()
	s := serve(t, dir)
	repo, err := s.Repository("r")
	if err != nil {
		t.Fatal(err)
	}
	d := s.blob("r", []byte("evidence"))
	if err := os.WriteFile(filepath.Join(dir, "blobs", "sha256", d[7:9], d[7:]), []byte("Evidence"), 0o600); err != nil {
		t.Fatal(err)
	}
	blob, _, err := repo.Blob(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	defer blob.Close()
	if got, err := io.ReadAll(blob); !errors.Is(err, storage.ErrOtherBytes) {
		t.Errorf("the blob is %q, %v", got, err)
	}
	if err := s.AddReferrers(t.Context(), "r", d, "a/b", 1); err != nil { // its digest is made up
		t.Fatal(err)
	}
	if _, _, err := repo.Manifest(t.Context(), s.referrers("r", d, "")[0]); !errors.Is(err, storage.ErrOtherBytes) {
		t.Errorf("the manifest: %v", err)
	}
}

func TestDamagedBlobIsMendedByPushingItAgain(t *testing.T) {
	dir := t.TempDir()
	s := serve(t, dir)
	repo, err := s.Repository("r")
	if err != nil {
		t.Fatal(err)
	}
	content := []byte("evidence")
	d := s.blob("r", content)
	file := filepath.Join(dir, "blobs", "sha256", d[7:9], d[7:])
	for name, damage := range map[string]func() error{
		"gone": func() error { return os.Remove(file) },
		"cut":  func() error { return os.Truncate(file, 3) },
		"other bytes, which somebody has read": func() error {
			if err := os.WriteFile(file, []byte("Evidence"), 0o600); err != nil {
				return err
			}
			blob, _, err := repo.Blob(t.Context(), d)
			if err != nil {
				return err
			}
			defer blob.Close()
			if _, err := io.ReadAll(blob); !errors.Is(err, storage.ErrOtherBytes) {
				return fmt.Errorf("read as sound: %v", err)
			}
			return nil
		},
	} {
		// By a client that looks first, and by us.
		for who, push := range map[string]func(){
			"client": func() {
				s.want(404, "", "HEAD", "/v2/r/blobs/"+d, nil)
				s.blob("r", content)
			},
			"service": func() {
				if _, there, err := repo.HasBlob(t.Context(), d); there || err != nil {
					t.Errorf("%s: it has the blob, %v", name, err)
				}
				open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }
				if err := repo.PushBlob(t.Context(), d, int64(len(content)), open); err != nil {
					t.Error(err)
				}
			},
		} {
			if err := damage(); err != nil {
				t.Fatal(name, err)
			}
			push()
			if got := s.want(200, "", "GET", "/v2/r/blobs/"+d, nil); !bytes.Equal(got.body, content) {
				t.Errorf("%s, pushed by the %s: %q", name, who, got.body)
			}
			s.want(200, "", "HEAD", "/v2/r/blobs/"+d, nil)
		}
	}
}

func TestBlobsAreStreamedNotHeld(t *testing.T) {
	s := serve(t, t.TempDir())
	repo, err := s.Repository("r")
	if err != nil {
		t.Fatal(err)
	}
	const size = 64 << 20
	h := sha256.New()
	if _, err := io.CopyN(h, zeros{}, size); err != nil {
		t.Fatal(err)
	}
	d := fmt.Sprintf("sha256:%x", h.Sum(nil))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	err = repo.PushBlob(context.Background(), d, size, func() (io.ReadCloser, error) {
		return io.NopCloser(io.LimitReader(zeros{}, size)), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Get(s.url + "/v2/r/blobs/" + d)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if n, err := io.Copy(io.Discard, resp.Body); n != size || err != nil {
		t.Errorf("%d bytes came back, %v", n, err)
	}
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 4<<20 {
		t.Errorf("pushing and pulling %d bytes allocated %d", size, used)
	}
}
