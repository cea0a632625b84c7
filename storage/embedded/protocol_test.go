package embedded_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestRootAnswersThatThisIsARegistry(t *testing.T) {
	s := serve(t, t.TempDir())
	a := s.want(200, "", "GET", "/v2/", nil)
	if got := a.header.Get("Docker-Distribution-API-Version"); got != "registry/2.0" {
		t.Errorf("API version is %q", got)
	}
	s.want(200, "", "HEAD", "/v2/", nil)
	s.want(200, "", "GET", "/v2", nil)
}

func TestEveryRefusalHasItsStatusAndCode(t *testing.T) {
	s := serve(t, t.TempDir())
	s.blob("a/b", []byte("{}"))
	d := s.manifest("a/b", "v1", image(nil))
	absent := sha([]byte("absent"))
	long := strings.Repeat("a", 256)
	for _, c := range []struct {
		status             int
		code, method, path string
	}{
		{404, "UNSUPPORTED", "GET", "/v2/a/b"},
		{404, "UNSUPPORTED", "GET", "/v2/a/b/"},
		{404, "UNSUPPORTED", "GET", "/v2/_catalog"},
		{404, "UNSUPPORTED", "GET", "/v2//"},
		{405, "UNSUPPORTED", "POST", "/v2/"},
		{405, "UNSUPPORTED", "PUT", "/v2/a/b/tags/list"},
		{405, "UNSUPPORTED", "POST", "/v2/a/b/manifests/v1"},
		{405, "UNSUPPORTED", "PUT", "/v2/a/b/blobs/" + absent},
		{405, "UNSUPPORTED", "GET", "/v2/a/b/blobs/uploads/"},
		{405, "UNSUPPORTED", "POST", "/v2/a/b/referrers/" + d},
		{405, "UNSUPPORTED", "BREW", "/v2/a/b/blobs/uploads/x"},

		{400, "NAME_INVALID", "GET", "/v2/A/tags/list"},
		{400, "NAME_INVALID", "GET", "/v2/a//b/tags/list"},
		{400, "NAME_INVALID", "GET", "/v2/../tags/list"},
		{400, "NAME_INVALID", "GET", "/v2/a/../b/manifests/v1"},
		{400, "NAME_INVALID", "GET", "/v2/a%2Fb/manifests/v1"},
		{400, "NAME_INVALID", "GET", "/v2/a%2fb/blobs/" + absent},
		{400, "NAME_INVALID", "GET", "/v2/%61/tags/list"},
		{400, "NAME_INVALID", "GET", "/v2/a___b/tags/list"},
		{400, "NAME_INVALID", "GET", "/v2/-a/tags/list"},
		{400, "NAME_INVALID", "GET", "/v2/a./tags/list"},
		{400, "NAME_INVALID", "GET", "/v2/_x/tags/list"},
		{400, "NAME_INVALID", "GET", "/v2/" + long + "/tags/list"},
		{400, "NAME_INVALID", "POST", "/v2/A/blobs/uploads/"},
		{404, "NAME_UNKNOWN", "GET", "/v2/nobody/tags/list"},
		{404, "NAME_UNKNOWN", "GET", "/v2/a__b/tags/list"},
		{404, "NAME_UNKNOWN", "GET", "/v2/a---b.c/tags/list"},
		{404, "NAME_UNKNOWN", "GET", "/v2/" + long[:255] + "/tags/list"},

		{404, "BLOB_UNKNOWN", "GET", "/v2/a/b/blobs/" + absent},
		{404, "BLOB_UNKNOWN", "HEAD", "/v2/a/b/blobs/" + absent},
		{404, "BLOB_UNKNOWN", "DELETE", "/v2/a/b/blobs/" + absent},
		{404, "MANIFEST_UNKNOWN", "GET", "/v2/a/b/manifests/v2"},
		{404, "MANIFEST_UNKNOWN", "HEAD", "/v2/a/b/manifests/" + absent},
		{404, "MANIFEST_UNKNOWN", "DELETE", "/v2/a/b/manifests/v2"},
		{404, "MANIFEST_UNKNOWN", "DELETE", "/v2/a/b/manifests/" + absent},
		{404, "MANIFEST_UNKNOWN", "GET", "/v2/other/manifests/v1"},
		{400, "MANIFEST_INVALID", "GET", "/v2/a/b/manifests/.x"},
		{400, "MANIFEST_INVALID", "GET", "/v2/a/b/manifests/" + strings.Repeat("t", 129)},
		{400, "MANIFEST_INVALID", "GET", "/v2/a/b/manifests/%2e%2e%2fv1"},

		{400, "DIGEST_INVALID", "GET", "/v2/a/b/manifests/sha256:abc"},
		{400, "DIGEST_INVALID", "GET", "/v2/a/b/blobs/sha256"},
		{400, "DIGEST_INVALID", "GET", "/v2/a/b/blobs/:"},
		{400, "DIGEST_INVALID", "HEAD", "/v2/a/b/blobs/sha256:" + strings.Repeat("G", 64)},
		{400, "DIGEST_INVALID", "GET", "/v2/a/b/blobs/" + strings.ToUpper(absent)},
		{400, "DIGEST_INVALID", "GET", "/v2/a/b/blobs/sha256:..%2f..%2f..%2fregistry.db"},
		{400, "DIGEST_INVALID", "GET", "/v2/a/b/blobs/md5:" + strings.Repeat("0", 32)},
		{400, "DIGEST_INVALID", "GET", "/v2/a/b/blobs/sha512:" + absent[7:]},
		{400, "DIGEST_INVALID", "GET", "/v2/a/b/referrers/sha256:xyz"},
		{400, "DIGEST_INVALID", "GET", "/v2/a/b/referrers/v1"},
		{400, "DIGEST_INVALID", "GET", "/v2/a/b/referrers/" + d + "?last=x"},
		{400, "DIGEST_INVALID", "POST", "/v2/a/b/blobs/uploads/?digest=abc"},
		{400, "DIGEST_INVALID", "POST", "/v2/a/b/blobs/uploads/?digest=" + absent},
		{400, "DIGEST_INVALID", "POST", "/v2/a/b/blobs/uploads/?mount=sha256:1&from=a/b"},
		{400, "NAME_INVALID", "POST", "/v2/a/b/blobs/uploads/?from=..&mount=" + absent},
		{400, "BLOB_UPLOAD_INVALID", "POST", "/v2/a/b/blobs/uploads/?digest=%zz"},
		{404, "BLOB_UPLOAD_UNKNOWN", "PATCH", "/v2/a/b/blobs/uploads/nope"},
		{404, "BLOB_UPLOAD_UNKNOWN", "GET", "/v2/a/b/blobs/uploads/nope"},
		{404, "BLOB_UPLOAD_UNKNOWN", "DELETE", "/v2/a/b/blobs/uploads/..%2fx"},
		{404, "BLOB_UPLOAD_UNKNOWN", "PUT", "/v2/a/b/blobs/uploads/nope?digest=" + absent},
		{400, "UNSUPPORTED", "GET", "/v2/a/b/tags/list?n=many"},
		{400, "UNSUPPORTED", "GET", "/v2/a/b/tags/list?n=-1"},
	} {
		t.Run(c.method+" "+c.path[:min(len(c.path), 60)], func(t *testing.T) {
			s := *s
			s.t = t
			a := s.want(c.status, c.code, c.method, c.path, nil)
			if c.status == 405 && a.header.Get("Allow") == "" {
				t.Error("405 without Allow")
			}
		})
	}
}

func TestWordsOfTheProtocolMayBePartOfAName(t *testing.T) {
	s := serve(t, t.TempDir())
	for _, name := range []string{"blobs", "manifests/tags", "a/blobs/uploads", "tags/list/manifests", "referrers/blobs"} {
		s.blob(name, []byte("{}"))
		d := s.manifest(name, "list", image(nil))
		s.want(200, "", "GET", "/v2/"+name+"/manifests/list", nil)
		s.want(200, "", "GET", "/v2/"+name+"/referrers/"+d, nil)
		a := s.want(200, "", "GET", "/v2/"+name+"/tags/list", nil)
		if want := fmt.Sprintf(`{"name":%q,"tags":["list"]}`, name); string(a.body) != want {
			t.Errorf("tags of %s are %s, want %s", name, a.body, want)
		}
	}
}

func TestBlobPushedInAnyWayComesBack(t *testing.T) {
	s := serve(t, t.TempDir())
	content := bytes.Repeat([]byte("net-monitor "), 50_000)
	for name, push := range map[string]func(t *testing.T, d string) answer{
		"single POST": func(t *testing.T, d string) answer {
			return s.want(201, "", "POST", "/v2/r/blobs/uploads/?digest="+d, content)
		},
		"POST and PUT": func(t *testing.T, d string) answer {
			return s.want(201, "", "PUT", s.start("r")+"?digest="+d, content)
		},
		"one PATCH without a range": func(t *testing.T, d string) answer {
			at := s.start("r")
			s.want(202, "", "PATCH", at, content)
			return s.want(201, "", "PUT", at+"?digest="+d, nil)
		},
		"chunks, the last in the PUT": func(t *testing.T, d string) answer {
			at := s.start("r")
			for i := 0; i < 400_000; i += 100_000 {
				a := s.want(202, "", "PATCH", at, content[i:i+100_000], fmt.Sprintf("Content-Range: %d-%d", i, i+99_999))
				if got, want := a.header.Get("Range"), fmt.Sprintf("0-%d", i+99_999); got != want {
					t.Errorf("Range is %q, want %q", got, want)
				}
			}
			return s.want(201, "", "PUT", at+"?digest="+d, content[400_000:], "Content-Range: 400000-599999")
		},
	} {
		for _, d := range []string{sha(content), sha512d(content)} {
			t.Run(name+" "+d[:6], func(t *testing.T) {
				a := push(t, d)
				if got := a.header.Get("Docker-Content-Digest"); got != d {
					t.Errorf("Docker-Content-Digest is %s, want %s", got, d)
				}
				got := s.want(200, "", "GET", a.header.Get("Location"), nil)
				if !bytes.Equal(got.body, content) {
					t.Errorf("%d bytes came back, want the %d pushed", len(got.body), len(content))
				}
				head := s.want(200, "", "HEAD", "/v2/r/blobs/"+url.QueryEscape(d), nil)
				if got := head.header.Get("Content-Length"); got != fmt.Sprint(len(content)) {
					t.Errorf("Content-Length of HEAD is %s, want %d", got, len(content))
				}
				s.want(202, "", "DELETE", "/v2/r/blobs/"+d, nil)
				s.want(404, "BLOB_UNKNOWN", "GET", "/v2/r/blobs/"+d, nil)
			})
		}
	}
}

// start opens an upload and returns where it goes on.
func (s *server) start(repository string) string {
	s.t.Helper()
	a := s.want(202, "", "POST", "/v2/"+repository+"/blobs/uploads/", nil)
	if a.header.Get("Range") != "0-0" || a.header.Get("Docker-Upload-UUID") == "" {
		s.t.Fatalf("start of an upload answers %v", a.header)
	}
	return a.header.Get("Location")
}

func TestWrongChunkLeavesTheUploadWhereItWas(t *testing.T) {
	s := serve(t, t.TempDir())
	at := s.start("r")
	s.want(202, "", "PATCH", at, []byte("0123456789"), "Content-Range: 0-9")
	d := sha([]byte("0123456789abcde"))
	for _, c := range []struct {
		name   string
		status int
		code   string
		method string
		query  string
		header string
	}{
		{"gap", 416, "BLOB_UPLOAD_INVALID", "PATCH", "", "Content-Range: 11-15"},
		{"repeated", 416, "BLOB_UPLOAD_INVALID", "PATCH", "", "Content-Range: 0-4"},
		{"overlap", 416, "BLOB_UPLOAD_INVALID", "PATCH", "", "Content-Range: 9-13"},
		{"gap in PUT", 416, "BLOB_UPLOAD_INVALID", "PUT", "?digest=" + d, "Content-Range: 20-24"},
		{"other length", 400, "SIZE_INVALID", "PATCH", "", "Content-Range: 10-12"},
		{"unit", 400, "BLOB_UPLOAD_INVALID", "PATCH", "", "Content-Range: bytes 10-14/*"},
		{"backwards", 400, "BLOB_UPLOAD_INVALID", "PATCH", "", "Content-Range: 14-10"},
		{"no digest", 400, "DIGEST_INVALID", "PUT", "", "Content-Range: 10-14"},
		{"other digest", 400, "DIGEST_INVALID", "PUT", "?digest=" + sha([]byte("x")), "Content-Range: 10-14"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := *s
			s.t = t
			a := s.want(c.status, c.code, c.method, at+c.query, []byte("abcde"), c.header)
			if c.status == 416 && (a.header.Get("Range") != "0-9" || a.header.Get("Location") != at) {
				t.Errorf("416 does not say where to go on: %v", a.header)
			}
			status := s.want(204, "", "GET", at, nil)
			if got := status.header.Get("Range"); got != "0-9" {
				t.Errorf("the upload now ends at %q, want 0-9", got)
			}
		})
	}
	s.want(201, "", "PUT", at+"?digest="+d, []byte("abcde"))
	s.want(404, "BLOB_UPLOAD_UNKNOWN", "GET", at, nil)
}

func TestBodyThatBreaksOffHasNotHappened(t *testing.T) {
	s := serve(t, t.TempDir())
	at := s.start("r")
	s.want(202, "", "PATCH", at, []byte("0123456789"))
	d := sha([]byte("0123456789abcde"))
	for _, request := range []string{
		"PATCH " + at, "PUT " + at + "?digest=" + d, "POST /v2/r/blobs/uploads/?digest=" + d,
		"PUT /v2/r/manifests/v1",
	} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: r\r\nContent-Type: %s\r\nContent-Length: 1000\r\n\r\nabc", request, ociManifest)
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatalf("%s: %v", request, err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != 400 || !strings.Contains(string(body), "broke off after 3 bytes") {
			t.Errorf("%s with 3 of 1000 bytes: %d %s %v", request, resp.StatusCode, body, err)
		}
		resp.Body.Close()
		conn.Close()
	}
	s.want(201, "", "PUT", at+"?digest="+d, []byte("abcde"))
	a := s.want(200, "", "GET", "/v2/r/blobs/"+d, nil)
	if string(a.body) != "0123456789abcde" {
		t.Errorf("the blob is %q", a.body)
	}
	s.want(404, "MANIFEST_UNKNOWN", "GET", "/v2/r/manifests/v1", nil)
}

// raw sends one request, broken off behind body, and returns the connection.
func (s *server) raw(request, headers, body string) *net.TCPConn {
	s.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		s.t.Fatal(err)
	}
	fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: r\r\nContent-Type: %s\r\n%s\r\n\r\n%s", request, ociManifest, headers, body)
	return conn.(*net.TCPConn)
}

func TestBodyThatStandsStillIsRefusedAndItsConnectionClosed(t *testing.T) {
	s := serve(t, t.TempDir())
	s.LosePatience(50 * time.Millisecond)
	d := sha([]byte("never whole"))
	for _, c := range []struct{ request, code string }{
		{"POST /v2/r/blobs/uploads/?digest=" + d, "BLOB_UPLOAD_INVALID"},
		{"PATCH " + s.start("r"), "BLOB_UPLOAD_INVALID"},
		{"PUT " + s.start("r") + "?digest=" + d, "BLOB_UPLOAD_INVALID"},
		{"PUT /v2/r/manifests/v1", "MANIFEST_INVALID"},
	} {
		for headers, body := range map[string]string{
			"Content-Length: 500":        "ab",
			"Transfer-Encoding: chunked": "2\r\nab\r\n",
		} {
			from := bufio.NewReader(s.raw(c.request, headers, body))
			resp, err := http.ReadResponse(from, nil)
			if err != nil {
				t.Errorf("%s, %s: no answer: %v", c.request, headers, err)
				continue
			}
			text, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			got := answer{resp.StatusCode, resp.Header, text}
			if err != nil || got.status != 408 || got.code() != c.code || !resp.Close {
				t.Errorf("%s, %s: %d %s, closing %v, %v; want 408 %s, closing", c.request, headers, got.status, text, resp.Close, err, c.code)
			}
			if _, err := from.ReadByte(); err != io.EOF {
				t.Errorf("%s, %s: after the answer %v, want the end", c.request, headers, err)
			}
		}
	}
}

func TestChunkThatWasNotTakenLeavesNoBytesOnDisk(t *testing.T) {
	dir := t.TempDir()
	s := serve(t, dir)
	mb := strings.Repeat("x", 1<<20)
	const known = "0123456789"
	for name, refused := range map[string]func(at string){
		"PATCH broken off": func(at string) {
			conn := s.raw("PATCH "+at, fmt.Sprintf("Content-Length: %d", 2<<20), mb)
			if err := conn.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if resp, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || resp.StatusCode != 400 {
				t.Fatalf("PATCH broken off: %v, %v", resp, err)
			}
		},
		"PUT of another digest": func(at string) {
			s.want(400, "DIGEST_INVALID", "PUT", at+"?digest="+sha([]byte("other")), []byte(mb))
			s.want(400, "DIGEST_INVALID", "PUT", at+"?digest="+sha512d([]byte("other")), []byte(mb))
		},
		"PATCH whose sender goes at its end": func(at string) {
			ctx, gone := context.WithCancel(t.Context())
			body := io.MultiReader(strings.NewReader(mb), readerFunc(func([]byte) (int, error) {
				gone()
				return 0, io.EOF
			}))
			w := httptest.NewRecorder()
			s.Handler().ServeHTTP(w, httptest.NewRequestWithContext(ctx, "PATCH", at, body))
			if w.Code == 202 { // it was taken before anybody noticed
				s.want(204, "", "DELETE", at, nil)
				s.want(202, "", "PATCH", s.start("r"), []byte(known))
			}
		},
	} {
		before := sizeOf(t, filepath.Join(dir, "uploads"))
		for range 10 {
			at := s.start("r")
			s.want(202, "", "PATCH", at, []byte(known))
			refused(at)
		}
		if got, want := sizeOf(t, filepath.Join(dir, "uploads"))-before, int64(10*len(known)); got != want {
			t.Errorf("%s, ten times: %d bytes on disk, the rows know of %d", name, got, want)
		}
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// sizeOf is how many bytes the files in a folder have.
func sizeOf(t *testing.T, folder string) (all int64) {
	t.Helper()
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		all += info.Size()
	}
	return all
}

func TestUploadOfAnotherRepositoryIsUnknown(t *testing.T) {
	s := serve(t, t.TempDir())
	at := s.start("mine")
	theirs := strings.Replace(at, "mine", "theirs", 1)
	for _, method := range []string{"GET", "PATCH", "DELETE"} {
		s.want(404, "BLOB_UPLOAD_UNKNOWN", method, theirs, []byte("x"))
	}
	s.want(404, "BLOB_UPLOAD_UNKNOWN", "PUT", theirs+"?digest="+sha([]byte("x")), []byte("x"))
	s.want(204, "", "DELETE", at, nil)
	s.want(404, "BLOB_UPLOAD_UNKNOWN", "PATCH", at, []byte("x"))
}

func TestUploadGoesOnAfterARestart(t *testing.T) {
	dir := t.TempDir()
	var at string
	t.Run("first process", func(t *testing.T) {
		s := serve(t, dir)
		at = s.start("r")
		s.want(202, "", "PATCH", at, []byte("01234"), "Content-Range: 0-4")
	})
	t.Run("second process", func(t *testing.T) {
		s := serve(t, dir)
		if a := s.want(204, "", "GET", at, nil); a.header.Get("Range") != "0-4" {
			t.Errorf("Range is %q, want 0-4", a.header.Get("Range"))
		}
		s.want(202, "", "PATCH", at, []byte("56789"), "Content-Range: 5-9")
		s.want(201, "", "PUT", at+"?digest="+sha([]byte("0123456789")), nil)
	})
}

func TestBlobIsVisibleOnlyWhereItWasPushedOrMounted(t *testing.T) {
	s := serve(t, t.TempDir())
	d := s.blob("a", []byte("secret"))
	s.want(404, "BLOB_UNKNOWN", "GET", "/v2/b/blobs/"+d, nil)

	s.want(202, "", "POST", "/v2/b/blobs/uploads/?mount="+d, nil) // from nowhere: an upload
	s.want(202, "", "POST", "/v2/b/blobs/uploads/?from=c&mount="+d, nil)
	s.want(202, "", "POST", "/v2/b/blobs/uploads/?from=a&mount="+sha([]byte("absent")), nil)
	s.want(404, "BLOB_UNKNOWN", "GET", "/v2/b/blobs/"+d, nil)
	s.want(404, "MANIFEST_BLOB_UNKNOWN", "PUT", "/v2/b/manifests/v1", image(func(m map[string]any) {
		m["config"] = map[string]any{"mediaType": "a/b", "digest": d, "size": 6}
	}), "Content-Type: "+ociManifest)

	a := s.want(201, "", "POST", "/v2/b/blobs/uploads/?from=a&mount="+d, nil)
	s.want(200, "", "GET", a.header.Get("Location"), nil)
	s.want(202, "", "DELETE", "/v2/a/blobs/"+d, nil)
	s.want(404, "BLOB_UNKNOWN", "GET", "/v2/a/blobs/"+d, nil)
	if got := s.want(200, "", "GET", "/v2/b/blobs/"+d, nil); string(got.body) != "secret" {
		t.Errorf("deleting it in a left %q in b", got.body)
	}
}

func TestRangesOfABlob(t *testing.T) {
	s := serve(t, t.TempDir())
	d := s.blob("r", []byte("0123456789"))
	empty := s.blob("r", nil)
	for _, c := range []struct {
		header  string
		status  int
		body    string
		content string // Content-Range
	}{
		{"bytes=0-4", 206, "01234", "bytes 0-4/10"},
		{"bytes=5-", 206, "56789", "bytes 5-9/10"},
		{"bytes=5-99", 206, "56789", "bytes 5-9/10"},
		{"bytes=9-9", 206, "9", "bytes 9-9/10"},
		{"bytes=-3", 206, "789", "bytes 7-9/10"},
		{"bytes=-99", 206, "0123456789", "bytes 0-9/10"},
		{"bytes=0-99999999999999999999", 206, "0123456789", "bytes 0-9/10"},
		{"bytes=10-", 416, "", "bytes */10"},
		{"bytes=99999999999999999999-", 416, "", "bytes */10"},
		{"bytes=-0", 416, "", "bytes */10"},
		{"bytes=4-2", 200, "0123456789", ""},
		{"bytes=0-1,3-4", 200, "0123456789", ""},
		{"bytes=x-", 200, "0123456789", ""},
		{"bytes=-", 200, "0123456789", ""},
		{"lines=1-2", 200, "0123456789", ""},
	} {
		a := s.do("GET", "/v2/r/blobs/"+d, nil, "Range: "+c.header)
		if a.status != c.status || a.header.Get("Content-Range") != c.content || c.status != 416 && string(a.body) != c.body {
			t.Errorf("%s: got %d %q %q, want %d %q %q", c.header, a.status, a.header.Get("Content-Range"), a.body, c.status, c.content, c.body)
		}
		if c.status == 416 && a.code() != "SIZE_INVALID" {
			t.Errorf("%s: got %s", c.header, a.body)
		}
	}
	s.want(416, "SIZE_INVALID", "GET", "/v2/r/blobs/"+empty, nil, "Range: bytes=0-")
	s.want(200, "", "GET", "/v2/r/blobs/"+empty, nil)
	if a := s.do("GET", "/v2/r/blobs/"+d, nil, "Range: bytes=0-4", `If-Range: "x"`); a.status != 200 {
		t.Errorf("a conditional range was served with %d", a.status)
	}
}

func TestManifestsAreKeptByteForByte(t *testing.T) {
	s := serve(t, t.TempDir())
	s.blob("r", []byte("{}"))
	body := append(image(nil), "\n \n"...)
	a := s.want(201, "", "PUT", "/v2/r/manifests/v1", body, "Content-Type: "+ociManifest+"; charset=utf-8")
	if got := a.header.Get("Location"); got != "/v2/r/manifests/"+sha(body) {
		t.Errorf("Location is %s", got)
	}
	if a.header.Get("OCI-Subject") != "" {
		t.Error("OCI-Subject without a subject")
	}
	s.want(201, "", "PUT", "/v2/r/manifests/"+sha512d(body), body, "Content-Type: "+ociManifest)
	for _, ref := range []string{"v1", sha(body), sha512d(body), url.QueryEscape(sha(body))} {
		got := s.want(200, "", "GET", "/v2/r/manifests/"+ref, nil, "Accept: text/plain")
		if !bytes.Equal(got.body, body) || got.header.Get("Content-Type") != ociManifest {
			t.Errorf("%s: got %s %q", ref, got.header.Get("Content-Type"), got.body)
		}
		head := s.want(200, "", "HEAD", "/v2/r/manifests/"+ref, nil)
		if head.header.Get("Content-Length") != fmt.Sprint(len(body)) || head.header.Get("Docker-Content-Digest") != got.header.Get("Docker-Content-Digest") {
			t.Errorf("HEAD %s: %v", ref, head.header)
		}
	}
}

func TestManifestIsRefusedForWhatIsWrongWithIt(t *testing.T) {
	s := serve(t, t.TempDir())
	s.blob("r", []byte("{}"))
	absent := sha([]byte("absent"))
	set := func(key string, value any) []byte {
		return image(func(m map[string]any) { m[key] = value })
	}
	for _, c := range []struct {
		name      string
		status    int
		code      string
		ref       string
		mediaType string
		body      []byte
	}{
		{"other digest", 400, "DIGEST_INVALID", absent, ociManifest, image(nil)},
		{"other Content-Type", 400, "MANIFEST_INVALID", "v1", ociIndex, image(nil)},
		{"unknown Content-Type", 400, "MANIFEST_INVALID", "v1", "application/json", set("mediaType", "application/json")},
		{"unreadable Content-Type", 400, "MANIFEST_INVALID", "v1", ";", image(nil)},
		{"empty", 400, "MANIFEST_INVALID", "v1", ociManifest, nil},
		{"no JSON", 400, "MANIFEST_INVALID", "v1", ociManifest, []byte("image")},
		{"an array", 400, "MANIFEST_INVALID", "v1", ociManifest, []byte("[]")},
		{"null", 400, "MANIFEST_INVALID", "v1", ociManifest, []byte("null")},
		{"two documents", 400, "MANIFEST_INVALID", "v1", ociManifest, append(image(nil), "{}"...)},
		{"schema 1", 400, "MANIFEST_INVALID", "v1", ociManifest, set("schemaVersion", 1)},
		{"no config", 400, "MANIFEST_INVALID", "v1", ociManifest, set("config", nil)},
		{"image and index", 400, "MANIFEST_INVALID", "v1", ociManifest, set("manifests", []any{})},
		{"index and image", 400, "MANIFEST_INVALID", "v1", ociIndex, set("mediaType", ociIndex)},
		{"layer without digest", 400, "MANIFEST_INVALID", "v1", ociManifest, set("layers", []any{map[string]any{"size": 1}})},
		{"path for a digest", 400, "MANIFEST_INVALID", "v1", ociManifest, set("layers", []any{subject("../../../registry.db")})},
		{"negative size", 400, "MANIFEST_INVALID", "v1", ociManifest, set("layers", []any{map[string]any{"digest": absent, "size": -1}})},
		{"subject without digest", 400, "MANIFEST_INVALID", "v1", ociManifest, set("subject", map[string]any{})},
		{"annotation of another type", 400, "MANIFEST_INVALID", "v1", ociManifest, set("annotations", map[string]any{"a": 1})},
		{"absent layer", 404, "MANIFEST_BLOB_UNKNOWN", "v1", ociManifest, set("layers", []any{subject(absent)})},
		{"bad tag", 400, "MANIFEST_INVALID", "-v1", ociManifest, image(nil)},
		{"one byte too many", 413, "SIZE_INVALID", "v1", ociManifest, append(image(nil), bytes.Repeat([]byte(" "), 4<<20+1-len(image(nil)))...)},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := *s
			s.t = t
			s.want(c.status, c.code, "PUT", "/v2/r/manifests/"+c.ref, c.body, "Content-Type: "+c.mediaType)
		})
	}
	s.want(404, "MANIFEST_UNKNOWN", "GET", "/v2/r/manifests/v1", nil)

	largest := append(image(nil), bytes.Repeat([]byte(" "), 4<<20-len(image(nil)))...)
	s.manifest("r", "largest", largest)
	foreign := set("layers", []any{map[string]any{"digest": absent, "size": 1, "urls": []string{"https://example.com/layer"}}})
	s.manifest("r", "foreign", foreign)
	s.manifest("r", "sparse", indexOf(absent))
}

func TestMemberNamesOfAManifestMatchExactly(t *testing.T) {
	s := serve(t, t.TempDir())
	s.blob("r", []byte("{}"))
	img, other := sha(image(nil)), sha([]byte("other"))
	subjectless := image(func(m map[string]any) {
		m["SUBJECT"], m["Subject"], m["\u017fubject"] = subject(img), "of any type", subject(img)
		m["MediaType"], m["Layers"], m["Manifests"] = "of/another", []any{subject(other)}, []any{}
	})
	a := s.want(201, "", "PUT", "/v2/r/manifests/v1", subjectless, "Content-Type: "+ociManifest)
	if got := a.header.Get("OCI-Subject"); got != "" {
		t.Errorf("SUBJECT made %s the subject", got)
	}
	if got := s.referrers("r", img, ""); len(got) != 0 {
		t.Errorf("SUBJECT made a referrer: %v", got)
	}
	claim := s.manifest("r", "", image(func(m map[string]any) {
		to := subject(img)
		to["Digest"] = other
		m["subject"], m["SUBJECT"] = to, subject(other)
	}))
	if got := s.referrers("r", img, ""); !slices.Equal(got, []string{claim}) {
		t.Errorf("beside another spelling the referrers are %v, want %s", got, claim)
	}
	s.want(400, "MANIFEST_INVALID", "PUT", "/v2/r/manifests/v1", image(func(m map[string]any) {
		m["Config"] = m["config"]
		delete(m, "config")
	}), "Content-Type: "+ociManifest)
}

func TestManifestTooLargeIsRefusedAlsoWithoutItsLength(t *testing.T) {
	s := serve(t, t.TempDir())
	req, err := http.NewRequest("PUT", s.url+"/v2/r/manifests/v1", io.LimitReader(zeros{}, 5<<20))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", ociManifest)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 413 {
		t.Errorf("got %d, want 413", resp.StatusCode)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func TestDeletingATagKeepsTheManifestAndDeletingTheManifestItsReferrers(t *testing.T) {
	s := serve(t, t.TempDir())
	s.blob("r", []byte("{}"))
	d := s.manifest("r", "v1", image(nil))
	s.manifest("r", "v2", image(nil))
	claim := s.manifest("r", "", image(func(m map[string]any) { m["subject"] = subject(d) }))

	s.want(202, "", "DELETE", "/v2/r/manifests/v1", nil)
	s.want(404, "MANIFEST_UNKNOWN", "GET", "/v2/r/manifests/v1", nil)
	s.want(200, "", "GET", "/v2/r/manifests/v2", nil)
	s.want(202, "", "DELETE", "/v2/r/manifests/"+d, nil)
	s.want(404, "MANIFEST_UNKNOWN", "GET", "/v2/r/manifests/v2", nil)
	s.want(404, "MANIFEST_UNKNOWN", "DELETE", "/v2/r/manifests/"+d, nil)
	if got := s.referrers("r", d, ""); !slices.Equal(got, []string{claim}) {
		t.Errorf("referrers of the deleted image are %v, want %s", got, claim)
	}
	s.want(202, "", "DELETE", "/v2/r/manifests/"+claim, nil)
	if got := s.referrers("r", d, ""); len(got) != 0 {
		t.Errorf("a deleted referrer is still listed: %v", got)
	}
	if a := s.want(200, "", "GET", "/v2/r/tags/list", nil); string(a.body) != `{"name":"r","tags":[]}` {
		t.Errorf("tags are %s", a.body)
	}
}

func TestTagsAreListedInOrderAndInPages(t *testing.T) {
	s := serve(t, t.TempDir())
	s.blob("r", []byte("{}"))
	for _, tag := range []string{"b", "a", "B", "10", "9", "_x"} {
		s.manifest("r", tag, image(nil))
	}
	all := []string{"10", "9", "B", "_x", "a", "b"}
	for _, c := range []struct {
		query string
		want  []string
		link  string
	}{
		{"", all, ""},
		{"?n=6", all, ""},
		{"?n=999999999999999999999", all, ""},
		{"?n=0", nil, ""},
		{"?n=2", all[:2], `</v2/r/tags/list?last=9&n=2>; rel="next"`},
		{"?n=2&last=9", all[2:4], `</v2/r/tags/list?last=_x&n=2>; rel="next"`},
		{"?n=2&last=_x", all[4:], ""},
		{"?last=Zzz", all[3:], ""},
		{"?last=zzz", nil, ""},
	} {
		a := s.want(200, "", "GET", "/v2/r/tags/list"+c.query, nil)
		var got struct{ Tags []string }
		if err := json.Unmarshal(a.body, &got); err != nil || got.Tags == nil {
			t.Errorf("%q: %s: %v", c.query, a.body, err)
		}
		if !slices.Equal(got.Tags, c.want) || a.header.Get("Link") != c.link {
			t.Errorf("%q: got %v, Link %q, want %v, %q", c.query, got.Tags, a.header.Get("Link"), c.want, c.link)
		}
	}
}

func indexOf(digests ...string) []byte {
	manifests := []any{}
	for _, d := range digests {
		manifests = append(manifests, subject(d))
	}
	body, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": ociIndex, "manifests": manifests})
	if err != nil {
		panic(err)
	}
	return body
}

// referrers follows the pages of a listing.
func (s *server) referrers(repository, digest, query string) (digests []string) {
	s.t.Helper()
	next := "/v2/" + repository + "/referrers/" + digest + query
	for next != "" {
		a := s.want(200, "", "GET", next, nil)
		if got := a.header.Get("Content-Type"); got != ociIndex {
			s.t.Fatalf("a referrers list is %s", got)
		}
		if len(a.body) > 4<<20 {
			s.t.Fatalf("a page has %d bytes", len(a.body))
		}
		var page struct{ Manifests []struct{ Digest string } }
		if err := json.Unmarshal(a.body, &page); err != nil || page.Manifests == nil {
			s.t.Fatalf("%s: %v", a.body, err)
		}
		for _, m := range page.Manifests {
			digests = append(digests, m.Digest)
		}
		next, _, _ = strings.Cut(strings.TrimPrefix(a.header.Get("Link"), "<"), ">")
	}
	return digests
}

func TestReferrersAreListedWithTypeAndAnnotations(t *testing.T) {
	s := serve(t, t.TempDir())
	s.blob("r", []byte("{}"))
	d := sha(image(nil)) // not pushed yet
	if got := s.referrers("r", d, ""); got != nil {
		t.Errorf("before any push: %v", got)
	}
	if got := s.referrers("nobody", d, ""); got != nil {
		t.Errorf("of an unknown repository: %v", got)
	}
	put := func(mediaType string, body []byte) string {
		a := s.want(201, "", "PUT", "/v2/r/manifests/"+sha(body), body, "Content-Type: "+mediaType)
		if got := a.header.Get("OCI-Subject"); got != d {
			t.Errorf("OCI-Subject is %q, want %s", got, d)
		}
		return sha(body)
	}
	sbom := put(ociManifest, image(func(m map[string]any) {
		m["subject"], m["artifactType"], m["annotations"] = subject(d), "application/spdx+json", map[string]string{"k": "<v>"}
	}))
	config := put(ociManifest, image(func(m map[string]any) { m["subject"] = subject(d) }))
	index := put(ociIndex, func() []byte {
		body, _ := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": ociIndex, "manifests": []any{}, "subject": subject(d), "artifactType": "a/index"})
		return body
	}())
	s.manifest("r", "v1", image(nil))

	want := []string{sbom, config, index}
	slices.Sort(want)
	if got := s.referrers("r", d, ""); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for artifactType, want := range map[string]string{
		"application/spdx+json": sbom, "application/vnd.oci.empty.v1+json": config, "a/index": index,
	} {
		a := s.want(200, "", "GET", "/v2/r/referrers/"+d+"?artifactType="+url.QueryEscape(artifactType), nil)
		if got := a.header.Get("OCI-Filters-Applied"); got != "artifactType" {
			t.Errorf("OCI-Filters-Applied is %q", got)
		}
		if got := s.referrers("r", d, "?artifactType="+url.QueryEscape(artifactType)); !slices.Equal(got, []string{want}) {
			t.Errorf("%s: got %v, want %s", artifactType, got, want)
		}
	}
	a := s.want(200, "", "GET", "/v2/r/referrers/"+d+"?artifactType=application/spdx%2Bjson", nil)
	var list struct{ Manifests []json.RawMessage }
	if err := json.Unmarshal(a.body, &list); err != nil || len(list.Manifests) != 1 {
		t.Fatalf("%s: %v", a.body, err)
	}
	var entry struct {
		MediaType, ArtifactType string
		Size                    int
		Annotations             map[string]string
	}
	if err := json.Unmarshal(list.Manifests[0], &entry); err != nil {
		t.Fatal(err)
	}
	if entry.MediaType != ociManifest || entry.ArtifactType != "application/spdx+json" || entry.Annotations["k"] != "<v>" || entry.Size == 0 {
		t.Errorf("descriptor is %s", list.Manifests[0])
	}
	if a := s.want(200, "", "GET", "/v2/r/referrers/"+d, nil); a.header.Get("OCI-Filters-Applied") != "" {
		t.Error("OCI-Filters-Applied without a filter")
	}
}

func TestReferrersOfTheTagSchemaAreListedToo(t *testing.T) {
	s := serve(t, t.TempDir())
	s.blob("r", []byte("{}"))
	d := s.manifest("r", "v1", image(nil))
	tag := strings.Replace(d, ":", "-", 1)
	named := s.manifest("r", "", image(func(m map[string]any) { m["subject"] = subject(d) }))
	old := s.manifest("r", "", image(func(m map[string]any) { m["artifactType"] = "a/old" }))

	s.manifest("r", tag, indexOf(old, named, sha([]byte("absent"))))
	want := []string{old, named}
	slices.Sort(want)
	if got := s.referrers("r", d, ""); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := s.referrers("r", d, "?artifactType=a/old"); !slices.Equal(got, []string{old}) {
		t.Errorf("the type that the index left out is not found: %v", got)
	}

	s.manifest("r", tag, image(nil)) // the image under its own referrers tag
	if got := s.referrers("r", d, ""); !slices.Equal(got, []string{named}) {
		t.Errorf("got %v, want %s alone", got, named)
	}
}

func TestManyReferrersComeInPagesBelow4MiB(t *testing.T) {
	s := serve(t, t.TempDir())
	s.blob("r", []byte("{}"))
	d := sha(image(nil))
	var want []string
	for i := range 5 {
		want = append(want, s.manifest("r", "", image(func(m map[string]any) {
			m["subject"], m["artifactType"] = subject(d), "a/b"
			m["annotations"] = map[string]string{"n": fmt.Sprint(i), "text": strings.Repeat("x", 3<<20)}
		})))
	}
	slices.Sort(want)
	for _, query := range []string{"", "?artifactType=a%2Fb"} {
		if got := s.referrers("r", d, query); !slices.Equal(got, want) {
			t.Errorf("%q: got %d referrers, want %d", query, len(got), len(want))
		}
	}
}

func TestConcurrentPushesToOneSubjectAreAllListed(t *testing.T) {
	s := serve(t, t.TempDir())
	s.blob("r", []byte("{}"))
	d := sha(image(nil))
	results := make(chan int)
	for i := range 64 {
		go func() {
			body := image(func(m map[string]any) {
				m["subject"], m["annotations"] = subject(d), map[string]string{"n": fmt.Sprint(i)}
			})
			results <- s.do("PUT", "/v2/r/manifests/"+sha(body), body, "Content-Type: "+ociManifest).status
		}()
	}
	for range 64 {
		if status := <-results; status != 201 {
			t.Errorf("a push was answered with %d", status)
		}
	}
	if got := s.referrers("r", d, ""); len(got) != 64 {
		t.Errorf("%d of 64 are listed", len(got))
	}
}

func TestOneUploadIsWrittenByOneRequestAtATime(t *testing.T) {
	s := serve(t, t.TempDir())
	at := s.start("r")
	results := make(chan int)
	for range 8 {
		go func() { results <- s.do("PATCH", at, []byte("0123456789"), "Content-Range: 0-9").status }()
	}
	count := map[int]int{}
	for range 8 {
		count[<-results]++
	}
	if count[202] != 1 || count[416] != 7 {
		t.Errorf("the same chunk eight times at once was answered %v, want 1 × 202, 7 × 416", count)
	}
	s.want(201, "", "PUT", at+"?digest="+sha([]byte("0123456789")), nil)
}

func TestServerTimeoutDoesNotCutABodyThatKeepsComing(t *testing.T) {
	s := serve(t, t.TempDir())
	h := httptest.NewUnstartedServer(s.Handler())
	h.Config.ReadTimeout = 50 * time.Millisecond
	h.Start()
	defer h.Close()
	body, feed := io.Pipe()
	go func() {
		defer feed.Close()
		for range 4 {
			time.Sleep(h.Config.ReadTimeout) // time is what this is about
			if _, err := feed.Write([]byte("slowly")); err != nil {
				return
			}
		}
	}()
	req, err := http.NewRequest("POST", h.URL+"/v2/r/blobs/uploads/?digest="+sha([]byte("slowlyslowlyslowlyslowly")), body)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 201 {
		t.Errorf("got %d, want 201", resp.StatusCode)
	}
}
