package embedded_test

import (
	"bufio"
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/scittd/scittd/storage/embedded"
)

const victimDir = "SCITTD_EMBEDDED_VICTIM"

var kills = flag.Int("kills", 3, "how often the registry is killed")

// chunkSize is what a large blob is pushed in pieces of.
const chunkSize = 100_000

// large is the blob that a client pushes in ten chunks.
func large(client, i int) []byte {
	return bytes.Repeat(fmt.Appendf(nil, "%019d\n", client*1_000_000_000+i), 10*chunkSize/20)
}

// victim is the process to be killed: it pushes images from several clients
// over HTTP and prints what was answered with 201, or a chunk with 202, until it
// dies.
func victim(dir string) {
	r, err := embedded.Open(dir)
	if err != nil {
		panic(err)
	}
	s := httptest.NewServer(r.Handler())
	start, err := strconv.Atoi(os.Getenv("SCITTD_EMBEDDED_START"))
	if err != nil {
		panic(err)
	}
	var out sync.Mutex
	send := func(want int, method, path, mediaType string, body []byte) http.Header {
		req, err := http.NewRequest(method, s.URL+path, bytes.NewReader(body))
		if err != nil {
			panic(err)
		}
		req.Header.Set("Content-Type", mediaType)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			panic(err)
		}
		defer resp.Body.Close()
		if text, _ := io.ReadAll(resp.Body); resp.StatusCode != want {
			panic(fmt.Sprintf("%s %s: %d %s", method, path, resp.StatusCode, text))
		}
		return resp.Header
	}
	say := func(what ...any) {
		out.Lock()
		defer out.Unlock()
		fmt.Println(what...)
	}
	put := func(what, method, path, mediaType string, body []byte) {
		send(201, method, path, mediaType, body)
		say(what)
	}
	var all sync.WaitGroup
	for client := range 2 {
		all.Go(func() {
			for i := start; ; i++ {
				at, whole := send(202, "POST", "/v2/r/blobs/uploads/", "", nil).Get("Location"), large(client, i)
				for from := 0; from < len(whole); from += chunkSize {
					send(202, "PATCH", at, "", whole[from:from+chunkSize])
					say("chunk", at, client, i, from+chunkSize)
				}
				send(201, "PUT", at+"?digest="+sha(whole), "", nil)
				say("blob", sha(whole), at)
			}
		})
	}
	for client := range 4 {
		all.Go(func() {
			put("ready", "POST", "/v2/r/blobs/uploads/?digest="+sha([]byte("{}")), "", []byte("{}"))
			for i := start; ; i++ {
				layer := bytes.Repeat(fmt.Appendf(nil, "client %d layer %d\n", client, i), 20_000)
				put("blob "+sha(layer), "POST", "/v2/r/blobs/uploads/?digest="+sha(layer), "", layer)
				body := image(func(m map[string]any) {
					m["layers"] = []any{subject(sha(layer))}
					m["subject"] = subject(sha([]byte("image")))
				})
				tag := fmt.Sprintf("c%d-%d", client, i)
				put("manifest "+tag+" "+sha(body), "PUT", "/v2/r/manifests/"+tag, ociManifest, body)
			}
		})
	}
	all.Wait()
}

func TestWhatWasAnsweredSurvivesKill9AndNoHalfBlobIsSeen(t *testing.T) {
	dir := t.TempDir()
	var blobs, manifests []string
	uploads := map[string]upload{} // by Location, those that were not finished
	for round := range *kills {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), victimDir+"="+dir, fmt.Sprintf("SCITTD_EMBEDDED_START=%d", round*1_000_000))
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		killed := false
		lines := bufio.NewScanner(out)
		for n := 1; lines.Scan(); n++ {
			switch f := strings.Fields(lines.Text()); f[0] {
			case "blob":
				blobs = append(blobs, f[1])
				if len(f) > 2 {
					delete(uploads, f[2])
				}
			case "chunk":
				uploads[f[1]] = upload{number(t, f[2]), number(t, f[3]), number(t, f[4])}
			case "manifest":
				manifests = append(manifests, f[1]+" "+f[2])
			}
			if n == 60+17*(round%7) {
				refused(t, dir) // until the kernel has ended the process
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
				killed = true
			}
		}
		if err := cmd.Wait(); err == nil || !killed {
			t.Fatalf("the victim ended by itself: %v", err)
		}
	}

	s := serve(t, dir)
	for _, d := range blobs {
		if a := s.want(200, "", "GET", "/v2/r/blobs/"+d, nil); sha(a.body) != d {
			t.Errorf("blob %s came back as %s", d, sha(a.body))
		}
	}
	listed := map[string]bool{}
	for _, d := range s.referrers("r", sha([]byte("image")), "") {
		listed[d] = true
		// Also of what was not answered any more, only whole things are seen.
		a := s.want(200, "", "GET", "/v2/r/manifests/"+d, nil)
		for _, layer := range layersOf(t, a.body) {
			if got := s.want(200, "", "GET", "/v2/r/blobs/"+layer, nil); sha(got.body) != layer {
				t.Errorf("manifest %s names blob %s, which is %s", d, layer, sha(got.body))
			}
		}
	}
	for _, m := range manifests {
		tag, d, _ := strings.Cut(m, " ")
		if a := s.want(200, "", "GET", "/v2/r/manifests/"+tag, nil); sha(a.body) != d {
			t.Errorf("%s came back as %s, want %s", tag, sha(a.body), d)
		}
		if !listed[d] {
			t.Errorf("%s is not listed as referrer", d)
		}
	}
	if len(blobs) < 30 || len(manifests) < 30 || len(uploads) == 0 {
		t.Fatalf("only %d blobs and %d manifests were pushed, and %d uploads broke off", len(blobs), len(manifests), len(uploads))
	}
	for at, u := range uploads {
		s.resume(at, u)
	}
	s.sweepsHalfFiles(dir)
}

// upload is one that a kill broke off.
type upload struct {
	client, i int
	answered  int // bytes that were answered with 202
}

func number(t *testing.T, text string) int {
	t.Helper()
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// resume goes on with an upload where the registry says that it stands. The kill
// may have come between the end of the upload and its answer.
func (s *server) resume(at string, u upload) {
	s.t.Helper()
	whole := large(u.client, u.i)
	if a := s.do("HEAD", "/v2/r/blobs/"+sha(whole), nil); a.status == 200 {
		return
	}
	a := s.want(204, "", "GET", at, nil)
	last, err := strconv.Atoi(strings.TrimPrefix(a.header.Get("Range"), "0-"))
	if err != nil || last+1 < u.answered || last+1 > len(whole) {
		s.t.Errorf("%d bytes were answered, and the Range is %q", u.answered, a.header.Get("Range"))
		return
	}
	if last+1 < len(whole) {
		s.want(202, "", "PATCH", at, whole[last+1:], fmt.Sprintf("Content-Range: %d-%d", last+1, len(whole)-1))
	}
	s.want(201, "", "PUT", at+"?digest="+sha(whole), nil)
	if a := s.want(200, "", "GET", "/v2/r/blobs/"+sha(whole), nil); !bytes.Equal(a.body, whole) {
		s.t.Errorf("an upload that went on after a kill has %d bytes, not the %d sent", len(a.body), len(whole))
	}
}

// sweepsHalfFiles checks that a day later every file is a blob or an upload.
func (s *server) sweepsHalfFiles(dir string) {
	s.t.Helper()
	old := time.Now().Add(-25 * time.Hour)
	for _, folder := range []string{"uploads", "blobs"} {
		err := filepath.WalkDir(filepath.Join(dir, folder), func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			return os.Chtimes(path, old, old)
		})
		if err != nil {
			s.t.Fatal(err)
		}
	}
	if err := s.Sweep(context.Background()); err != nil {
		s.t.Fatal(err)
	}
	for id := range files(s.t, filepath.Join(dir, "uploads")) {
		s.want(204, "", "GET", "/v2/r/blobs/uploads/"+id, nil) // its first answer was never read
	}
	for name := range files(s.t, filepath.Join(dir, "blobs")) {
		s.want(200, "", "HEAD", "/v2/r/blobs/sha256:"+name, nil)
	}
}
