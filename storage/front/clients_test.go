package front_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"oras.land/oras-go/v2"
	orasremote "oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/scittd/scittd/storage/front"
)

// Whether credentials are configured or not, whether they are right or not,
// whether the front asks for them or not: each client does what its user meant.

func TestCraneLibraryPushesWithATokenAndPullsWithout(t *testing.T) {
	for _, open := range []bool{false, true} {
		config := front.Config{Authorize: tokens}
		if open {
			config.Authorize = nil
		}
		url := serve(t, config)
		ref, err := name.ParseReference(strings.TrimPrefix(url, "http://") + "/wabbit/net-monitor:v1")
		if err != nil {
			t.Fatal(err)
		}
		img, err := random.Image(100_000, 2)
		if err != nil {
			t.Fatal(err)
		}
		with := func(password string) remote.Option {
			return remote.WithAuth(&authn.Basic{Username: "wabbit", Password: password})
		}
		if !open {
			for name, c := range map[string]struct {
				option remote.Option
				status int
			}{
				"anonymous": {remote.WithAuth(authn.Anonymous), 401},
				"wrong":     {with("wrong"), 401},
				"reader":    {with(readOnly), 403},
			} {
				err := remote.Write(ref, img, c.option)
				var refusal *transport.Error
				if !errors.As(err, &refusal) || refusal.StatusCode != c.status {
					t.Errorf("push with %s credentials: %v, want %d", name, err, c.status)
				}
			}
		}
		if err := remote.Write(ref, img, with(good)); err != nil {
			t.Errorf("open %v: push with a token: %v", open, err)
		}
		for name, option := range map[string]remote.Option{
			"anonymous": remote.WithAuth(authn.Anonymous), "publisher": with(good), "reader": with(readOnly),
		} {
			got, err := remote.Image(ref, option)
			if err != nil {
				t.Errorf("open %v: pull as %s: %v", open, name, err)
				continue
			}
			layers, err := got.Layers()
			if err != nil || len(layers) != 2 {
				t.Errorf("open %v: pull as %s: %d layers, %v", open, name, len(layers), err)
			}
		}
		if !open {
			if err := remote.Delete(ref, remote.WithAuth(authn.Anonymous)); err == nil {
				t.Error("an anonymous delete succeeded")
			}
		}
		if err := remote.Delete(ref, with(good)); err != nil {
			t.Errorf("open %v: delete with a token: %v", open, err)
		}
	}
}

func TestOrasLibraryPushesWithATokenAndPullsWithout(t *testing.T) {
	url := serve(t, front.Config{Authorize: tokens})
	host := strings.TrimPrefix(url, "http://")
	ctx := context.Background()
	open := func(password string) *orasremote.Repository {
		repo, err := orasremote.NewRepository(host + "/wabbit/net-monitor")
		if err != nil {
			t.Fatal(err)
		}
		repo.PlainHTTP = true
		client := &auth.Client{Client: http.DefaultClient, Cache: auth.NewCache()}
		if password != "" {
			client.Credential = auth.StaticCredential(host, auth.Credential{Username: "wabbit", Password: password})
		}
		repo.Client = client
		return repo
	}
	push := func(password string) error {
		repo := open(password)
		img, err := oras.PackManifest(ctx, repo, oras.PackManifestVersion1_1, "a/b", oras.PackManifestOptions{})
		if err != nil {
			return err
		}
		if err := repo.Tag(ctx, img, "v1"); err != nil {
			return err
		}
		_, err = oras.PackManifest(ctx, repo, oras.PackManifestVersion1_1, "a/claim", oras.PackManifestOptions{Subject: &img})
		return err
	}
	for password, want := range map[string]int{"": 401, "wrong": 401, readOnly: 403} {
		err := push(password)
		var refusal *errcode.ErrorResponse
		switch {
		case err == nil:
			t.Errorf("push with password %q succeeded", password)
		case errors.Is(err, auth.ErrBasicCredentialNotFound) && want == 401:
		case !errors.As(err, &refusal) || refusal.StatusCode != want:
			t.Errorf("push with password %q: %v, want %d", password, err, want)
		}
	}
	if err := push(good); err != nil {
		t.Fatal(err)
	}
	for _, password := range []string{"", good, readOnly} {
		d, body, err := oras.FetchBytes(ctx, open(password), "v1", oras.DefaultFetchBytesOptions)
		if err != nil || !bytes.Contains(body, []byte("a/b")) {
			t.Errorf("pull with password %q: %v %v", password, d, err)
		}
	}
	// oras login
	registry, err := orasremote.NewRegistry(host)
	if err != nil {
		t.Fatal(err)
	}
	registry.PlainHTTP = true
	for password, ok := range map[string]bool{good: true, readOnly: true, "wrong": false, "": true} {
		registry.Client = open(password).Client
		if err := registry.Ping(ctx); (err == nil) != ok {
			t.Errorf("ping with password %q: %v", password, err)
		}
	}
}
