package embedded_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/scittd/scittd/storage/embedded"
)

const victimDir = "SCITTD_EMBEDDED_VICTIM"

// victim is the process to be killed: it pushes images from several clients
// over HTTP and prints what was answered with 201, until it dies.
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
	put := func(what, method, path, mediaType string, body []byte) {
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
		if text, _ := io.ReadAll(resp.Body); resp.StatusCode != 201 {
			panic(fmt.Sprintf("%s %s: %d %s", method, path, resp.StatusCode, text))
		}
		out.Lock()
		defer out.Unlock()
		fmt.Println(what)
	}
	var all sync.WaitGroup
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
	for round := range 3 {
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
			case "manifest":
				manifests = append(manifests, f[1]+" "+f[2])
			}
			if n == 40+17*round {
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
	if len(blobs) < 30 || len(manifests) < 30 {
		t.Fatalf("only %d blobs and %d manifests were pushed", len(blobs), len(manifests))
	}
}
