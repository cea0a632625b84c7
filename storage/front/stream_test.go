package front_test

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/scittd/scittd/storage/front"
)

// zeros is a blob without memory.
type zeros struct{ left int64 }

func (z *zeros) Read(p []byte) (int, error) {
	if z.left == 0 {
		return 0, io.EOF
	}
	n := min(int64(len(p)), z.left)
	clear(p[:n])
	z.left -= n
	return int(n), nil
}

func TestBlobsStreamBothWaysThroughNoMoreThanBuffers(t *testing.T) {
	const size = 128 << 20
	url := before(t, hostOf(listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			n, err := io.Copy(io.Discard, r.Body)
			fmt.Fprint(w, n, err, r.ContentLength)
			return
		}
		w.Header().Set("Content-Length", fmt.Sprint(size))
		io.Copy(w, &zeros{size})
	}))), nil)
	var start, end runtime.MemStats
	runtime.ReadMemStats(&start)
	for _, length := range []int64{size, -1} { // known, and chunked
		req, err := http.NewRequest("PUT", url+"/v2/a/blobs/uploads/1?digest=sha256:00", io.NopCloser(&zeros{size}))
		if err != nil {
			t.Fatal(err)
		}
		req.ContentLength = length
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if want := fmt.Sprint(size, nil, length); err != nil || string(got) != want {
			t.Errorf("the registry got %s, %v, want %s", got, err, want)
		}
	}
	resp, err := http.Get(url + "/v2/a/blobs/" + zero)
	if err != nil {
		t.Fatal(err)
	}
	hash := sha256.New()
	n, err := io.Copy(hash, resp.Body)
	resp.Body.Close()
	if n != size || err != nil || resp.ContentLength != size {
		t.Errorf("pulled %d of %d bytes, %v", n, resp.ContentLength, err)
	}
	runtime.ReadMemStats(&end)
	// Everything that was ever allocated, by client, front and registry together.
	if grown := end.TotalAlloc - start.TotalAlloc; grown > 16<<20 {
		t.Errorf("%d MiB were allocated for %d MiB of blobs", grown>>20, 3*size>>20)
	}
}

func TestFirstBytesDoNotWaitForTheNext(t *testing.T) {
	more := make(chan struct{})
	url := before(t, hostOf(listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "first")
		http.NewResponseController(w).Flush()
		<-more
		io.WriteString(w, "rest")
	}))), nil)
	resp, err := http.Get(url + "/v2/a/blobs/" + zero)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	first := make([]byte, 5)
	if _, err := io.ReadFull(resp.Body, first); err != nil || string(first) != "first" {
		t.Errorf("%s, %v", first, err)
	}
	close(more)
	if rest, err := io.ReadAll(resp.Body); err != nil || string(rest) != "rest" {
		t.Errorf("%s, %v", rest, err)
	}
}

// impatient is a front with a server's usual deadlines before a registry, which
// gives up on what stands still after d.
func impatient(t *testing.T, registry http.Handler, d time.Duration) (address string) {
	t.Helper()
	upstream, err := front.OpenUpstream(front.UpstreamConfig{Host: hostOf(listen(t, registry)), PlainHTTP: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(upstream.Close)
	front.Impatient(upstream, d)
	s := httptest.NewUnstartedServer(front.New(front.Config{Upstream: upstream}))
	s.Config.ReadTimeout = d / 2 // for requests that nobody renews
	s.Start()
	t.Cleanup(s.Close)
	return hostOf(s.URL)
}

func TestWhatStandsStillEndsAndWhatMovesDoesNot(t *testing.T) {
	const short = 200 * time.Millisecond
	t.Run("a client that stops sending", func(t *testing.T) {
		ended := make(chan error, 1)
		address := impatient(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, err := io.Copy(io.Discard, r.Body)
			ended <- err
		}), short)
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "PUT /v2/a/blobs/uploads/1 HTTP/1.1\r\nHost: %s\r\nContent-Length: 100\r\n\r\nnever more", address)
		if err := <-ended; err == nil {
			t.Error("the registry took half a blob for a whole one")
		}
		if answer, _ := io.ReadAll(conn); len(answer) > 0 && !strings.HasPrefix(string(answer), "HTTP/1.1 400") {
			t.Errorf("answered %s", answer)
		}
	})
	t.Run("a client that stops reading", func(t *testing.T) {
		ended := make(chan error, 1)
		address := impatient(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, err := io.Copy(w, &zeros{1 << 30})
			ended <- err
		}), short)
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "GET /v2/a/blobs/"+zero+" HTTP/1.1\r\nHost: %s\r\n\r\n", address)
		if err := <-ended; err == nil {
			t.Error("all of it was sent to a client that does not read")
		}
	})
	t.Run("a registry that stops answering", func(t *testing.T) {
		for _, begun := range []bool{false, true} {
			release := make(chan struct{})
			address := impatient(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if begun {
					w.Header().Set("Content-Length", "100")
					io.WriteString(w, "half")
					http.NewResponseController(w).Flush()
				}
				<-release
			}), short)
			resp, err := http.Get("http://" + address + "/v2/a/blobs/" + zero)
			if err != nil {
				t.Fatal(err)
			}
			_, err = io.ReadAll(resp.Body)
			resp.Body.Close()
			if begun && err == nil || !begun && resp.StatusCode != http.StatusGatewayTimeout {
				t.Errorf("begun %v: %d, %v", begun, resp.StatusCode, err)
			}
			close(release)
		}
	})
	t.Run("bytes that trickle", func(t *testing.T) {
		address := impatient(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			n, err := io.Copy(io.Discard, r.Body)
			fmt.Fprint(w, n, err)
		}), short)
		r, w := io.Pipe()
		tick := time.NewTicker(short / 4)
		defer tick.Stop()
		go func() {
			for range 10 { // longer than anything may stand still
				<-tick.C
				w.Write([]byte("x"))
			}
			w.Close()
		}()
		resp, err := http.Post("http://"+address+"/v2/a/blobs/uploads/", "", r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if got, err := io.ReadAll(resp.Body); err != nil || string(got) != "10<nil>" && string(got) != "10 <nil>" {
			t.Errorf("%d %s, %v", resp.StatusCode, got, err)
		}
	})
	http.DefaultClient.CloseIdleConnections()
}

func TestAbortedUploadIsNoBlob(t *testing.T) {
	ended := make(chan error, 1)
	address := hostOf(before(t, hostOf(listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(io.Discard, r.Body)
		ended <- err
	}))), nil))
	for _, head := range []string{"Content-Length: 100\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n5\r\nchunk\r\n"} {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "PATCH /v2/a/blobs/uploads/1 HTTP/1.1\r\nHost: %s\r\n%s", address, head)
		conn.Close()
		if err := <-ended; err == nil {
			t.Errorf("after %q the registry saw a whole body", head)
		}
	}
}
