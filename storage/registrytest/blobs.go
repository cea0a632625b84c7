package registrytest

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"net/url"
	"strings"
)

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b) // never fails
	return b
}

func (c client) uploads() string { return "/v2/" + c.Repository + "/blobs/uploads/" }

func (c client) at(digest string) string { return "/v2/" + c.Repository + "/blobs/" + digest }

// start opens an upload and returns where it goes on.
func (c client) start() string {
	c.t.Helper()
	return c.header(c.want(c.do("POST", c.uploads(), nil), 202), "Location", "")
}

// with adds a digest to a location that may have a query already.
func (c client) with(location, digest string) string {
	c.t.Helper()
	u, err := url.Parse(location)
	if err != nil {
		c.t.Fatal(err)
	}
	q := u.Query()
	q.Set("digest", digest)
	u.RawQuery = q.Encode()
	return u.String()
}

// blob pushes one the short way.
func (c client) blob(algorithm string, body []byte) string {
	c.t.Helper()
	digest := digestOf(algorithm, body)
	c.want(c.do("POST", c.uploads()+"?digest="+digest, body, octets), 201)
	return digest
}

const octets = "Content-Type: application/octet-stream"

// pushes are the ways a blob gets in. Each is also tried with bytes that do not
// have the digest, and then has to be refused by its last request.
var pushes = map[string]func(c client, digest string, body []byte) answer{
	"single POST": func(c client, digest string, body []byte) answer {
		return c.do("POST", c.uploads()+"?digest="+digest, body, octets)
	},
	"POST and PUT": func(c client, digest string, body []byte) answer {
		return c.do("PUT", c.with(c.start(), digest), body, octets)
	},
	"one chunk": func(c client, digest string, body []byte) answer {
		return c.chunks(digest, body, len(body), false, false)
	},
	"chunks": func(c client, digest string, body []byte) answer { return c.chunks(digest, body, 1024, false, false) },
	"chunks, the last with the PUT": func(c client, digest string, body []byte) answer {
		return c.chunks(digest, body, 1024, true, false)
	},
	"chunks out of order": func(c client, digest string, body []byte) answer { return c.chunks(digest, body, 1024, false, true) },
	"chunks out of order, the last with the PUT": func(c client, digest string, body []byte) answer {
		return c.chunks(digest, body, 1024, true, true)
	},
	"stream": func(c client, digest string, body []byte) answer {
		a := c.want(c.do("PATCH", c.start(), body, octets, "Transfer-Encoding: chunked"), 202)
		return c.do("PUT", c.with(c.header(a, "Location", ""), digest), nil, octets)
	},
}

// chunks pushes body in pieces; disorder tries a wrong one before each.
func (c client) chunks(digest string, body []byte, size int, lastInPut, disorder bool) answer {
	c.t.Helper()
	at := c.start()
	for from := 0; from < len(body); from += size {
		to := min(from+size, len(body))
		if disorder {
			at = c.outOfOrder(at, digest, body, from, size, lastInPut)
		}
		piece, where := body[from:to], fmt.Sprintf("Content-Range: %d-%d", from, to-1)
		if lastInPut && to == len(body) {
			return c.do("PUT", c.with(at, digest), piece, octets, where)
		}
		a := c.want(c.do("PATCH", at, piece, octets, where), 202)
		c.header(a, "Range", fmt.Sprintf("0-%d", to-1))
		at = c.header(a, "Location", "")
	}
	return c.do("PUT", c.with(at, digest), nil, octets)
}

// outOfOrder sends the chunk after the next one, or the first once more, and
// then asks where to go on.
func (c client) outOfOrder(at, digest string, body []byte, from, size int, lastInPut bool) string {
	c.t.Helper()
	wrong := from + size
	if wrong >= len(body) {
		wrong = 0
	}
	to := min(wrong+size, len(body))
	method := "PATCH"
	if lastInPut && to == len(body) {
		method, at = "PUT", c.with(at, digest)
	}
	c.refused(c.do(method, at, body[wrong:to], octets, fmt.Sprintf("Content-Range: %d-%d", wrong, to-1)), 416)
	a := c.want(c.do("GET", at, nil), 204)
	if end := c.header(a, "Range", ""); end != fmt.Sprintf("0-%d", max(from-1, 0)) {
		c.t.Errorf("after %d bytes the Range is %q", from, end)
	}
	return c.header(a, "Location", "")
}

// blobs are pushed in all ways, looked at, pulled, mounted and deleted.
func (c client) blobs(algorithm string) {
	c.refused(c.do("GET", c.at(digestOf(algorithm, random(8))), nil), 404)
	for name, push := range pushes {
		c.sub(name, func(c client) {
			body := random(3*1024 - 5)
			digest := digestOf(algorithm, body)
			a := c.want(push(c, digest, body), 201)
			c.header(a, "Docker-Content-Digest", digest)
			c.content(c.want(c.do("GET", c.header(a, "Location", ""), nil), 200), digest, body)
			c.content(c.want(c.do("HEAD", c.at(digest), nil), 200), digest, body)
			c.deleteBlob(digest)
		})
		c.sub("bad digest, "+name, func(c client) {
			body := random(3*1024 - 5)
			digest := digestOf(algorithm, body)
			c.refused(push(c, digest, append(body, "oh no"...)), 400)
			c.refused(c.do("GET", c.at(digest), nil), 404)
		})
	}
	for _, body := range [][]byte{{}, []byte("{}")} {
		digest := c.blob(algorithm, body)
		c.content(c.want(c.do("GET", c.at(digest), nil), 200), digest, body)
		c.content(c.want(c.do("HEAD", c.at(digest), nil), 200), digest, body)
		c.deleteBlob(digest)
	}
	c.sub("mount", func(c client) { c.mounts(algorithm) })
	c.sub("cancel", func(c client) {
		at := c.start()
		c.want(c.do("DELETE", at, nil), 204)
		c.refused(c.do("PATCH", at, []byte("x"), octets), 404)
		c.refused(c.do("DELETE", at, nil), 404)
	})
	c.sub("ranges", func(c client) { c.ranges(algorithm) })
	c.sub("a chunk sent again", func(c client) {
		first := c.start()
		chunk := func() answer { return c.do("PATCH", first, []byte("Hel"), octets, "Content-Range: 0-2") }
		c.want(chunk(), 202)
		c.refused(chunk(), 416)
		a := c.want(c.do("GET", first, nil), 204)
		c.header(a, "Range", "0-2")
		a = c.want(c.do("PATCH", c.header(a, "Location", ""), []byte("lo"), octets, "Content-Range: 3-4"), 202)
		digest := digestOf(algorithm, []byte("Hello"))
		c.want(c.do("PUT", c.with(c.header(a, "Location", ""), digest), nil, octets), 201)
		c.deleteBlob(digest)
	})
}

func (c client) deleteBlob(digest string) {
	c.t.Helper()
	c.want(c.do("DELETE", c.at(digest), nil), 202)
	c.refused(c.do("HEAD", c.at(digest), nil), 404)
	c.refused(c.do("GET", c.at(digest), nil), 404)
}

func (c client) mounts(algorithm string) {
	other := c
	other.Repository = c.Other
	body := random(512)
	digest := other.blob(algorithm, body)

	a := c.want(c.do("POST", c.uploads()+"?"+url.Values{"mount": {digest}, "from": {c.Other}}.Encode(), nil), 201)
	c.header(a, "Docker-Content-Digest", digest)
	c.content(c.want(c.do("GET", c.header(a, "Location", ""), nil), 200), digest, body)
	c.deleteBlob(digest)
	other.want(other.do("GET", other.at(digest), nil), 200)

	// Without from, and from where it is not, an upload begins unless the
	// registry finds the blob by itself.
	a = c.want(c.do("POST", c.uploads()+"?mount="+digest, nil), 201, 202)
	if a.status == 202 {
		a = c.want(c.do("PUT", c.with(c.header(a, "Location", ""), digest), body, octets), 201)
	}
	c.content(c.want(c.do("GET", c.header(a, "Location", ""), nil), 200), digest, body)
	c.deleteBlob(digest)
	other.deleteBlob(digest)

	a = c.want(c.do("POST", c.uploads()+"?"+url.Values{"mount": {digest}, "from": {c.Other}}.Encode(), nil), 202)
	if at := c.header(a, "Location", ""); !strings.Contains(at, "/v2/"+c.Repository+"/blobs/uploads/") {
		c.t.Errorf("a mount of nothing leads to %s", at)
	}
	c.want(c.do("PUT", c.with(a.header.Get("Location"), digest), body, octets), 201)
	c.deleteBlob(digest)
}

func (c client) ranges(algorithm string) {
	body := random(2048)
	digest := c.blob(algorithm, body)
	for _, r := range []struct {
		header     string
		from, last int // inclusive; from < 0: not satisfiable
	}{
		{"500-1499", 500, 1499}, {"500-", 500, 2047}, {"-500", 1548, 2047}, {"2000-5000", 2000, 2047},
		{"0-0", 0, 0}, {"500-0", -1, 0}, {"5000-10000", -1, 0}, {"2048-", -1, 0},
	} {
		a := c.do("GET", c.at(digest), nil, "Range: bytes="+r.header)
		if r.from < 0 {
			c.refused(a, 416)
			continue
		}
		c.want(a, 206)
		want := body[r.from : r.last+1]
		c.header(a, "Content-Range", fmt.Sprintf("bytes %d-%d/%d", r.from, r.last, len(body)))
		c.header(a, "Content-Length", fmt.Sprint(len(want)))
		if !bytes.Equal(a.body, want) {
			c.t.Errorf("bytes=%s: %d bytes, not the right %d", r.header, len(a.body), len(want))
		}
	}
	c.deleteBlob(digest)
}
