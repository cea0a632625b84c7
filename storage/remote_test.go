package storage_test

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/scittd/scittd/internal/testenv"
	"github.com/scittd/scittd/storage"
)

func TestBigBlobsStream(t *testing.T) {
	host := testenv.Registry(t)
	repo := open(t, host, storage.RemoteOptions{})
	const size = 96 << 20
	block := make([]byte, 1<<20)
	rand.Read(block)
	hash := sha256.New()
	io.Copy(hash, &repeated{block: block, left: size})
	dig := "sha256:" + hex.EncodeToString(hash.Sum(nil))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if err := repo.PushBlob(t.Context(), dig, size, func() (io.ReadCloser, error) {
		return io.NopCloser(&repeated{block: block, left: size}), nil
	}); err != nil {
		t.Fatal(err)
	}
	rc, n, err := repo.Blob(t.Context(), dig)
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	if read, err := io.Copy(io.Discard, rc); err != nil || n != size || read != size {
		t.Errorf("announced %d, read %d of %d bytes: %v", n, read, size, err)
	}
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 16<<20 {
		t.Errorf("allocated %d MiB to push and read %d MiB", used>>20, size>>20)
	}
}

// repeated yields left bytes: block, again and again.
type repeated struct {
	block []byte
	at    int
	left  int64
}

func (r *repeated) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(int64(len(p)), r.left)], r.block[r.at:])
	r.at = (r.at + n) % len(r.block)
	r.left -= int64(n)
	return n, nil
}

func TestAnInterruptedUploadStartsAgainFromAFreshReader(t *testing.T) {
	var puts, opens atomic.Int32
	host, _ := startLiar(t, true, func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		if r.Method == http.MethodPut && isUpload(r) && puts.Add(1) == 1 {
			io.CopyN(io.Discard, r.Body, 1<<20)
			panic(http.ErrAbortHandler)
		}
		return false
	})
	text := strings.Repeat("0123456789abcdef", 2<<20/16)
	repo := open(t, host, storage.RemoteOptions{})
	err := repo.PushBlob(t.Context(), digest.FromString(text).String(), int64(len(text)), func() (io.ReadCloser, error) {
		opens.Add(1)
		return io.NopCloser(strings.NewReader(text)), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if opens.Load() != 2 {
		t.Errorf("opened %d times, want 2", opens.Load())
	}
	if got := readBlob(t, repo, digest.FromString(text).String()); string(got) != text {
		t.Errorf("%d bytes arrived, want %d", len(got), len(text))
	}
}

func TestUploadsThatCannotSucceedAreNotRepeated(t *testing.T) {
	host := serve(t, inRAM(true))
	repo := open(t, host, storage.RemoteOptions{})
	opens := 0
	source := errors.New("staging is gone")
	err := repo.PushBlob(t.Context(), digest.FromString("x").String(), 1, func() (io.ReadCloser, error) {
		opens++
		return nil, source
	})
	if !errors.Is(err, source) || opens != 1 {
		t.Errorf("%v after %d attempts, want %v after 1", err, opens, source)
	}
	err = repo.PushBlob(t.Context(), digest.FromString("x").String(), 1, func() (io.ReadCloser, error) {
		opens++
		return io.NopCloser(strings.NewReader("y")), nil
	})
	if !errors.Is(err, storage.ErrRefused) || opens != 2 {
		t.Errorf("other bytes: %v after %d attempts, want ErrRefused after 1", err, opens-1)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := repo.PushBlob(ctx, digest.FromString("x").String(), 1, evidenceOpen("x")); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func evidenceOpen(text string) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(text)), nil }
}

func TestAnEmptyBlobCanBePushed(t *testing.T) {
	for _, reg := range realRegistries[:4] {
		t.Run(reg.name, func(t *testing.T) {
			repo := open(t, reg.start(t), storage.RemoteOptions{})
			dig := digest.FromString("").String()
			if err := repo.PushBlob(t.Context(), dig, 0, evidenceOpen("")); err != nil {
				t.Fatal(err)
			}
			if size, there, err := repo.HasBlob(t.Context(), dig); err != nil || !there || size != 0 {
				t.Errorf("size %d, there %v, %v", size, there, err)
			}
		})
	}
}

// basicAuth protects h with one user name and password.
func basicAuth(user, password string, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, p, _ := r.BasicAuth(); u != user || p != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
			answer(w, http.StatusUnauthorized, `{"errors":[{"code":"UNAUTHORIZED","message":"who are you"}]}`)
			return
		}
		h.ServeHTTP(w, r)
	})
}

func TestCredentialsComeFromTheDockerConfig(t *testing.T) {
	host := serve(t, basicAuth("courier", canary, inRAM(true)))
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	login := base64.StdEncoding.EncodeToString([]byte("courier:" + canary))
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	write("docker-credential-vault", fmt.Sprintf("#!/bin/sh\n[ \"$1\" = get ] && [ \"$(cat)\" = %q ] && echo '{\"ServerURL\":\"x\",\"Username\":\"courier\",\"Secret\":%q}'\n", host, canary), 0o755)
	push := func(t *testing.T, config string) error {
		r, err := storage.OpenRemote(host, storage.RemoteOptions{PlainHTTP: true, DockerConfig: config})
		if err != nil {
			return err
		}
		t.Cleanup(r.Close)
		repo, err := r.Repository(repoName)
		if err != nil {
			return err
		}
		return repo.PushBlob(t.Context(), digest.FromString("x").String(), 1, evidenceOpen("x"))
	}
	for _, tt := range []struct{ name, config, fails string }{
		{"password in the file", write("plain.json", fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, host, login), 0o600), ""},
		{"helper for the host", write("helper.json", fmt.Sprintf(`{"credHelpers":{%q:"vault"}}`, host), 0o600), ""},
		{"helper for all", write("store.json", `{"credsStore":"vault"}`, 0o600), ""},
		{"another registry's password", write("other.json", fmt.Sprintf(`{"auths":{"other.example":{"auth":%q}}}`, login), 0o600), "no credentials for " + host + " are configured"},
		{"wrong password", write("wrong.json", fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, host, base64.StdEncoding.EncodeToString([]byte("courier:guess"))), 0o600), "push to repository " + repoName + " was denied: the registry answered 401"},
		{"helper not installed", write("absent.json", `{"credsStore":"nowhere"}`, 0o600), "docker-credential-nowhere"},
		{"malformed file", write("bad.json", `{"auths":`, 0o600), "docker config"},
		{"file not there", filepath.Join(dir, "none.json"), "none.json"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := push(t, tt.config)
			if tt.fails == "" && err != nil {
				t.Error(err)
			}
			if tt.fails != "" && (err == nil || !strings.Contains(err.Error(), tt.fails) || strings.Contains(err.Error(), canary)) {
				t.Errorf("%v; want it to say %q", err, tt.fails)
			}
		})
	}
	t.Run("folder in DOCKER_CONFIG", func(t *testing.T) {
		write("config.json", fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, host, login), 0o600)
		t.Setenv("DOCKER_CONFIG", dir)
		if err := push(t, ""); err != nil {
			t.Error(err)
		}
		if err := push(t, dir); err != nil {
			t.Error(err)
		}
	})
}

func TestCredentialsDoNotPrint(t *testing.T) {
	c := storage.Credential{Username: "courier", Password: canary, RefreshToken: canary}
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		if got := fmt.Sprintf(format, c); strings.Contains(got, canary) {
			t.Errorf("%s prints %s", format, got)
		}
	}
}

func TestTokensAreFetchedFromListedHostsOnly(t *testing.T) {
	tokens := 0
	realm := serve(t, basicAuth("courier", canary, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tokens++
		answer(w, http.StatusOK, `{"token":"pass"}`)
	})))
	host, subject := startLiar(t, true, func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		if r.Header.Get("Authorization") == "Bearer pass" {
			return false
		}
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="registry"`, realm))
		return answer(w, http.StatusUnauthorized, `{}`)
	})
	if _, err := storage.PlaceTransparency(t.Context(), open(t, host, canaryOptions()), subject, transparency("e1")); err == nil || tokens != 0 {
		t.Errorf("unlisted token host: %v, %d tokens fetched", err, tokens)
	}
	o := canaryOptions()
	o.TokenHosts = []string{realm}
	if _, err := storage.PlaceTransparency(t.Context(), open(t, host, o), subject, transparency("e1")); err != nil || tokens == 0 {
		t.Errorf("listed token host: %v, %d tokens fetched", err, tokens)
	}
}

func TestTLSIsTheDefaultAndIsChecked(t *testing.T) {
	s := httptest.NewTLSServer(inRAM(true))
	t.Cleanup(s.Close)
	s.Config.ErrorLog = quiet
	host := strings.TrimPrefix(s.URL, "https://")
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	has := func(o storage.RemoteOptions) error {
		o.Credentials = func(context.Context, string) (storage.Credential, error) { return storage.Credential{}, nil }
		r, err := storage.OpenRemote(host, o)
		if err != nil {
			return err
		}
		defer r.Close()
		repo, err := r.Repository(repoName)
		if err != nil {
			return err
		}
		_, _, err = repo.HasBlob(t.Context(), digest.FromString("x").String())
		return err
	}
	if err := has(storage.RemoteOptions{CAFile: ca}); err != nil {
		t.Errorf("with its CA: %v", err)
	}
	if err := has(storage.RemoteOptions{}); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("with the system's roots: %v, want a certificate error", err)
	}
	if err := has(storage.RemoteOptions{CAFile: "none.pem"}); err == nil {
		t.Error("a CA file that is not there was accepted")
	}
	if err := has(storage.RemoteOptions{CAFile: os.Args[0]}); err == nil {
		t.Error("a CA file without certificates was accepted")
	}
	if err := has(storage.RemoteOptions{CertFile: ca, KeyFile: ca}); err == nil {
		t.Error("a client certificate without its key was accepted")
	}

	downgrade := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://"+r.Host+"/", http.StatusTemporaryRedirect)
	}))
	t.Cleanup(downgrade.Close)
	host = strings.TrimPrefix(downgrade.URL, "https://")
	if err := has(storage.RemoteOptions{CAFile: ca}); err == nil || !strings.Contains(err.Error(), "without TLS") {
		t.Errorf("redirect to http: %v, want a refusal", err)
	}
}

func TestNamesAreChecked(t *testing.T) {
	for _, host := range []string{"", "a/b", "https://a", "a b", "user@host", "a?b"} {
		if _, err := storage.OpenRemote(host, storage.RemoteOptions{}); err == nil {
			t.Errorf("host %q was accepted", host)
		}
	}
	r, err := storage.OpenRemote("registry.example", storage.RemoteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", "UPPER", "a//b", "../a", "a/", "a:b", "a%2fb"} {
		if _, err := r.Repository(name); err == nil {
			t.Errorf("repository %q was accepted", name)
		}
	}
	a, err := r.Repository("a/b")
	if err != nil {
		t.Fatal(err)
	}
	if b, err := r.Repository("a/b"); err != nil || a != b {
		t.Errorf("a second value for one repository: %v", err)
	}
}

func TestPlainHTTPIsSpokenOnThisMachineAloneAndNotToTLS(t *testing.T) {
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	defer secure.Close()
	for _, c := range []struct {
		host string
		want bool
	}{
		{plain.Listener.Addr().String(), true},
		{secure.Listener.Addr().String(), false}, // although nobody believes its certificate
		{"localhost:1", true},                    // nobody answers
		{"registry.example", false},
	} {
		if got := storage.PlainHTTP(c.host); got != c.want {
			t.Errorf("%s: plain HTTP %v, want %v", c.host, got, c.want)
		}
	}
}
