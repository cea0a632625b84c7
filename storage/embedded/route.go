package embedded

import (
	"net/url"
	"strings"
)

// route is what a path below /v2 asks for.
type route struct {
	kind       kind
	repository string
	item       string // digest, tag or upload id, as sent
}

type kind int

const (
	noRoute kind = iota
	root
	blobRoute
	uploadsRoute // where uploads start
	uploadRoute
	manifestRoute
	tagsRoute
	referrersRoute
)

// parsePath reads an escaped URL path. Names contain slashes, and any of the
// protocol's words may be part of a name, so the path is read from its end.
// What is escaped stays escaped in a name, where the grammar then refuses it:
// %2F never becomes a slash. ok is false if no route has such a form; the name
// and the item are not checked yet.
func parsePath(escaped string) (r route, ok bool) {
	if escaped == "/v2" || escaped == "/v2/" {
		return route{kind: root}, true
	}
	rest, ok := strings.CutPrefix(escaped, "/v2/")
	if !ok {
		return route{}, false
	}
	s := strings.Split(rest, "/")
	n := len(s)
	name := func(words int) string { return strings.Join(s[:n-words], "/") }
	switch {
	case n >= 3 && s[n-2] == "tags" && s[n-1] == "list":
		return route{tagsRoute, name(2), ""}, true
	case n >= 3 && s[n-2] == "manifests":
		return item(manifestRoute, name(2), s[n-1])
	case n >= 3 && s[n-2] == "referrers":
		return item(referrersRoute, name(2), s[n-1])
	case n >= 3 && s[n-2] == "blobs" && s[n-1] == "uploads":
		return route{uploadsRoute, name(2), ""}, true
	case n >= 4 && s[n-3] == "blobs" && s[n-2] == "uploads" && s[n-1] == "":
		return route{uploadsRoute, name(3), ""}, true
	case n >= 4 && s[n-3] == "blobs" && s[n-2] == "uploads":
		return item(uploadRoute, name(3), s[n-1])
	case n >= 3 && s[n-2] == "blobs":
		return item(blobRoute, name(2), s[n-1])
	}
	return route{}, false
}

// item unescapes the last segment: some clients send sha256%3A….
func item(k kind, name, escaped string) (route, bool) {
	s, err := url.PathUnescape(escaped)
	return route{k, name, s}, err == nil
}
