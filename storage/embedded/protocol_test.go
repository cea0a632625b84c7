package embedded_test

import (
	"bytes"
	"fmt"
	"net/url"
	"strings"
	"testing"
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
		{404, "MANIFEST_UNKNOWN", "GET", "/v2/a/b/manifests/.x"},
		{404, "MANIFEST_UNKNOWN", "HEAD", "/v2/a/b/manifests/.x"},
		{404, "MANIFEST_UNKNOWN", "DELETE", "/v2/a/b/manifests/.x"},
		{404, "MANIFEST_UNKNOWN", "GET", "/v2/a/b/manifests/" + strings.Repeat("t", 129)},
		{404, "MANIFEST_UNKNOWN", "GET", "/v2/a/b/manifests/%2e%2e%2fv1"},

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
		{"bytes=4-2", 416, "", "bytes */10"},
		{"bytes=4-0", 416, "", "bytes */10"},
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
