package storage_test

import (
	"errors"
	"strings"
	"testing"

	"cuelabs.dev/go/oci/ociregistry/ociserver"
	"github.com/opencontainers/go-digest"

	"github.com/scittd/scittd/storage"
)

func TestReferencesAreReadAndWritten(t *testing.T) {
	dig := digest.FromString("x").String()
	for _, tt := range []struct {
		in   string
		want storage.Reference
	}{
		{"localhost:8080/wabbit/net-monitor:v1", storage.Reference{Host: "localhost:8080", Repository: "wabbit/net-monitor", Tag: "v1"}},
		{"registry.example/net-monitor", storage.Reference{Host: "registry.example", Repository: "net-monitor"}},
		{"registry.example/net-monitor@" + dig, storage.Reference{Host: "registry.example", Repository: "net-monitor", Digest: dig}},
		{"[::1]:5000/a/b:1.0_x", storage.Reference{Host: "[::1]:5000", Repository: "a/b", Tag: "1.0_x"}},
	} {
		got, err := storage.ParseReference(tt.in)
		if err != nil || got != tt.want {
			t.Errorf("%q: got %+v, %v; want %+v", tt.in, got, err, tt.want)
		}
		if got.String() != tt.in {
			t.Errorf("%q is written as %q", tt.in, got)
		}
	}
	got, err := storage.ParseReference("a.example/b:v1@" + dig)
	if err != nil || got.Tag != "" || got.Digest != dig {
		t.Errorf("tag and digest: %+v, %v; want the digest alone", got, err)
	}
	if at := got.At(dig).String(); at != "a.example/b@"+dig {
		t.Errorf("at the digest: %s", at)
	}
	for _, bad := range []string{"", "net-monitor", "net-monitor:v1", "/a:v1", "a.example/", "a.example/UPPER:v1", "a.example/b:", "a.example/b@sha256:1", "a.example/b:v 1", "https://a.example/b:v1", "a.example/b@" + dig + "/.."} {
		if got, err := storage.ParseReference(bad); err == nil && got.Tag+got.Digest != "" {
			t.Errorf("%q was read as %+v", bad, got)
		}
	}
}

func TestResolveReadsTheImage(t *testing.T) {
	host := ociServer(ociserver.Options{OmitDigestFromTagGetResponse: true})(t)
	subject := pushImage(t, host)
	r, err := storage.OpenRemote(host, storage.RemoteOptions{PlainHTTP: storage.Loopback(host)})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for _, name := range []string{":v1", "@" + subject} {
		ref, err := storage.ParseReference(host + "/" + repoName + name)
		if err != nil {
			t.Fatal(err)
		}
		if _, d, err := storage.Resolve(t.Context(), r, ref); err != nil || d.Digest != subject {
			t.Errorf("%s: %s, %v; want %s", name, d.Digest, err, subject)
		}
	}
	if _, _, err := storage.Resolve(t.Context(), r, storage.Reference{Host: host, Repository: repoName, Tag: "v2"}); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("absent tag: %v, want ErrNotFound", err)
	}
	if _, _, err := storage.Resolve(t.Context(), r, storage.Reference{Host: host, Repository: repoName}); err == nil || !strings.Contains(err.Error(), "add a :tag or a @digest") {
		t.Errorf("no tag: %v, want a hint", err)
	}
}

func TestLoopbackIsRecognised(t *testing.T) {
	for host, want := range map[string]bool{
		"localhost": true, "localhost:8080": true, "127.0.0.1:5000": true, "127.1.2.3": true, "[::1]:5000": true, "[::1]": true, "::1": true, "reg.localhost:80": true,
		"registry.example": false, "localhost.example": false, "10.0.0.1:5000": false, "0.0.0.0": false, "": false,
	} {
		if got := storage.Loopback(host); got != want {
			t.Errorf("%q: %v, want %v", host, got, want)
		}
	}
}
