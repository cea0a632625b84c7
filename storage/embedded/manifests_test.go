package embedded_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"testing"
)

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
		{"layers twice", 400, "MANIFEST_INVALID", "v1", ociManifest, append(image(nil)[:len(image(nil))-1], `,"layers":[]}`...)},
		{"no UTF-8", 400, "MANIFEST_INVALID", "v1", ociManifest, append(image(nil)[:len(image(nil))-1], ",\"x\":\"\xff\"}"...)},
		{"layers are no array", 400, "MANIFEST_INVALID", "v1", ociManifest, set("layers", "none")},
		{"a layer is no object", 400, "MANIFEST_INVALID", "v1", ociManifest, set("layers", []any{1})},
		{"fraction of a size", 400, "MANIFEST_INVALID", "v1", ociManifest, set("layers", []any{map[string]any{"digest": absent, "size": 1.5}})},
		{"one byte too many", 413, "SIZE_INVALID", "v1", ociManifest, append(image(nil), bytes.Repeat([]byte(" "), 4<<20+1-len(image(nil)))...)},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := *s
			s.t = t
			s.want(c.status, c.code, "PUT", "/v2/r/manifests/"+c.ref, c.body, "Content-Type: "+c.mediaType)
		})
	}
	s.want(404, "MANIFEST_UNKNOWN", "GET", "/v2/r/manifests/v1", nil)

	a := s.want(404, "MANIFEST_BLOB_UNKNOWN", "PUT", "/v2/r/manifests/v1", set("layers", []any{subject(absent)}), "Content-Type: "+ociManifest)
	if !bytes.Contains(a.body, []byte(`"detail":{"digest":"`+absent+`"}`)) {
		t.Errorf("the missing blob is not named for programs: %s", a.body)
	}

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

func TestManifestMadeToBeExpensiveIsNot(t *testing.T) {
	s := serve(t, t.TempDir())
	d := s.blob("r", []byte("{}"))
	fill := func(head, unit, tail string) []byte {
		n := (4<<20 - len(head) - len(tail)) / len(unit)
		return []byte(head + strings.Repeat(unit, n-1) + strings.TrimSuffix(unit, ",") + tail)
	}
	config := `{"schemaVersion":2,"config":{"digest":"` + d + `"},`
	for name, c := range map[string]struct {
		status    int
		mediaType string
		body      []byte
	}{
		"layers":      {400, ociManifest, fill(config+`"layers":[`, `{"digest":"`+d+`"},`, `]}`)},
		"manifests":   {201, ociIndex, fill(`{"schemaVersion":2,"manifests":[`, `{"digest":"`+d+`"},`, `]}`)},
		"nothings":    {400, ociIndex, fill(`{"schemaVersion":2,"manifests":[`, `{},`, `]}`)},
		"objects":     {201, ociManifest, fill(config+`"x":[`, `{},`, `]}`)},
		"members":     {201, ociManifest, fill(config, `"":0,`, `}`)},
		"escapes":     {201, ociManifest, fill(config, `"\u0041":0,`, `}`)},
		"annotations": {201, ociManifest, fill(config+`"annotations":{`, `"":"",`, `}}`)},
		"depth":       {400, ociManifest, fill(config+`"x":`, `[`, ``)},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		a := s.do("PUT", "/v2/r/manifests/"+name, c.body, "Content-Type: "+c.mediaType)
		runtime.ReadMemStats(&after)
		if a.status != c.status {
			t.Errorf("%s: got %d %s, want %d", name, a.status, a.body, c.status)
		}
		// Work is what allocates, and the client's is counted too. A map for each
		// descriptor would take 800 MiB for nothings.
		if took := (after.TotalAlloc - before.TotalAlloc) >> 20; took > 160 {
			t.Errorf("%s: took %d MiB", name, took)
		}
	}
}

func TestIndexWithHolesIsTakenWithAWarning(t *testing.T) {
	s := serve(t, t.TempDir())
	s.blob("r", []byte("{}"))
	there, absent := s.manifest("r", "v1", image(nil)), sha([]byte("absent"))
	for _, c := range []struct {
		body []byte
		warn bool
	}{{indexOf(), false}, {indexOf(there), false}, {indexOf(there, absent), true}} {
		a := s.want(201, "", "PUT", "/v2/r/manifests/v2", c.body, "Content-Type: "+ociIndex)
		// SPEC distribution-spec 1.1, "Warnings".
		warning := a.header.Get("Warning")
		if c.warn != (strings.HasPrefix(warning, `299 - "`) && strings.HasSuffix(warning, absent+`"`)) {
			t.Errorf("%s: Warning is %q", c.body, warning)
		}
	}
}

func TestManifestIsPushedUnderManyTagsOrNone(t *testing.T) {
	s := serve(t, t.TempDir())
	s.blob("r", []byte("{}"))
	at := "/v2/r/manifests/" + sha(image(nil))
	many := strings.TrimPrefix(strings.Repeat("&tag=v1", 101), "&")
	s.want(414, "MANIFEST_INVALID", "PUT", at+"?"+many, image(nil), "Content-Type: "+ociManifest)
	s.want(400, "MANIFEST_INVALID", "PUT", at+"?tag=v1&tag=.no", image(nil), "Content-Type: "+ociManifest)
	s.want(400, "MANIFEST_INVALID", "PUT", at+"?tag=%zz", image(nil), "Content-Type: "+ociManifest)
	s.want(404, "MANIFEST_UNKNOWN", "GET", at, nil)
	a := s.want(201, "", "PUT", at+"?tag=v1&tag=v2", image(nil), "Content-Type: "+ociManifest)
	if got := a.header.Values("OCI-Tag"); !slices.Equal(got, []string{"v1", "v2"}) {
		t.Errorf("OCI-Tag is %q", got)
	}
	if a := s.want(201, "", "PUT", "/v2/r/manifests/v3?tag=v4", image(nil), "Content-Type: "+ociManifest); a.header.Get("OCI-Tag") != "" {
		t.Error("OCI-Tag for a push by tag")
	}
	s.want(404, "MANIFEST_UNKNOWN", "GET", "/v2/r/manifests/v4", nil)
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
