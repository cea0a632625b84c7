package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/transparency-dev/tessera/client"
	"golang.org/x/mod/sumdb/note"

	"github.com/scittd/scittd/statement"
)

var sizes = flag.String("sizes", "2,255,256,257", "tree sizes to audit; 70000 takes a minute more")

// TestTesserasToolsAcceptTheLogOfARealService runs the scittd binary on SQLite,
// registers over HTTP, and audits at every size, both /log and the folder that it
// is published to, behind a plain file server; Tessera's tracker follows along
// and proves that each checkpoint continues the one before. In the end the
// service is stopped, and the folder is audited once more.
func TestTesserasToolsAcceptTheLogOfARealService(t *testing.T) {
	s := startService(t)
	key := s.vkey()
	a, err := newAuditor(s.url+"/log", key)
	if err != nil {
		t.Fatal(err)
	}
	files := httptest.NewServer(http.FileServer(http.Dir(s.path("published"))))
	defer files.Close()
	folder, err := newAuditor(files.URL, key)
	if err != nil {
		t.Fatal(err)
	}
	var size uint64
	audit := func(url string) {
		t.Helper()
		var out bytes.Buffer
		if err := run(t.Context(), []string{"-url", url, "-key", key}, &out); err != nil {
			t.Fatalf("%s at size %d: %v", url, size, err)
		}
		if want := fmt.Sprintf("\nsize  %d\n", size); !strings.Contains(out.String(), want) {
			t.Errorf("%s: audited\n%s, want size %d", url, &out, size)
		}
	}
	var tracker *client.LogStateTracker
	for text := range strings.SplitSeq(*sizes, ",") {
		if size, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
		s.growTo(size)
		s.published(a, size)
		audit(s.url + "/log")
		s.published(folder, size)
		audit(files.URL)

		consensus := client.UnilateralConsensus(a.fetcher.ReadCheckpoint)
		if tracker == nil {
			tracker, err = client.NewLogStateTracker(t.Context(), a.fetcher.ReadTile, nil, a.verifier, a.verifier.Name(), consensus)
		} else {
			_, _, _, err = tracker.Update(t.Context())
		}
		if err != nil {
			t.Fatalf("track to size %d: %v", size, err)
		}
		if got := tracker.Latest().Size; got != size {
			t.Errorf("tracked to size %d, want %d", got, size)
		}
	}

	s.growTo(size + 10)
	size += 10
	s.stop() // which publishes what came last
	audit(files.URL)

	// The audit is one: under a key that the log does not have it fails.
	_, other, err := note.GenerateKey(rand.Reader, a.verifier.Name())
	if err != nil {
		t.Fatal(err)
	}
	if err := run(t.Context(), []string{"-url", files.URL, "-key", other}, io.Discard); err == nil || !strings.Contains(err.Error(), "checkpoint") {
		t.Errorf("under another key: %v", err)
	}
}

// service is one scittd in a folder of the test's.
type service struct {
	t          *testing.T
	dir, url   string
	token      string
	key        *ecdsa.PrivateKey
	registered uint64
	stop       func()
}

const issuer = "https://publisher.example"

func startService(t *testing.T) *service {
	t.Helper()
	s := &service{t: t, dir: t.TempDir(), registered: 2}
	build := exec.Command("go", "build", "-o", s.path("scittd"), "./cmd/scittd")
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build scittd: %v\n%s", err, out)
	}
	var err error
	if s.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(&s.key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.path("publisher.pub"), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0") // a port that was free a moment ago
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	s.url = "http://" + address
	s.scittd("init", "--dir", s.path("data"), "--url", s.url, "--listen", address, "--issuer", issuer, "--issuer-key", s.path("publisher.pub"))
	s.token = strings.TrimSpace(s.scittd("token", "create", "fsck", "--scope", "publish", "--expires", "1h", "--dir", s.path("data")))

	cmd := exec.Command(s.path("scittd"), "serve", "--dir", s.path("data"), "--limits-caller-rate", "0", "--limits-address-rate", "0", "--log-level", "warn", "--log-publish", "file://"+s.path("published"))
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.stop = sync.OnceFunc(func() {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(s.stop)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if resp, err := http.Get(s.url + "/healthz"); err == nil {
			resp.Body.Close()
			return s
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func (s *service) path(name string) string { return filepath.Join(s.dir, name) }

func (s *service) scittd(args ...string) string {
	s.t.Helper()
	cmd := exec.Command(s.path("scittd"), args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		s.t.Fatalf("scittd %s: %v\n%s", args[0], err, &stderr)
	}
	return string(out)
}

// vkey is the checkpoint key that the log announced.
func (s *service) vkey() string {
	s.t.Helper()
	resp, err := http.Get(s.url + "/v1/service")
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	var about struct {
		CheckpointKeys []string `json:"checkpointKeys"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&about); err != nil || len(about.CheckpointKeys) != 1 {
		s.t.Fatalf("%d checkpoint keys, %v", len(about.CheckpointKeys), err)
	}
	return about.CheckpointKeys[0]
}

// growTo registers claims until the tree has that size.
func (s *service) growTo(size uint64) {
	s.t.Helper()
	const clients = 64
	httpClient := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients}}
	defer httpClient.CloseIdleConnections()
	numbers := make(chan uint64)
	var all sync.WaitGroup
	for range clients {
		all.Go(func() {
			for n := range numbers {
				if err := s.register(httpClient, n); err != nil {
					s.t.Error(err)
				}
			}
		})
	}
	for ; s.registered < size && !s.t.Failed(); s.registered++ {
		numbers <- s.registered
	}
	close(numbers)
	all.Wait()
	if s.t.Failed() {
		s.t.FailNow()
	}
}

func (s *service) register(c *http.Client, n uint64) error {
	evidence := sha256.Sum256(fmt.Append(nil, "evidence ", n))
	signed, err := statement.Sign(statement.Template{
		Issuer: issuer, Subject: fmt.Sprintf("pkg:oci/image@sha256:%x", evidence), ContentType: "application/vnd.cyclonedx+json",
		HashAlg: -16, Payload: evidence[:],
	}, s.key)
	if err != nil {
		return err
	}
	req, err := http.NewRequest(http.MethodPost, s.url+"/entries", bytes.NewReader(signed))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/cose")
	req.Header.Set("Authorization", "Bearer "+s.token)
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusCreated {
		return fmt.Errorf("register %d: %s %q, %v", n, resp.Status, body, err)
	}
	return nil
}

// published waits until a checkpoint is of that size: it follows the log with a
// cadence.
func (s *service) published(a *auditor, size uint64) {
	s.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		c, err := a.checkpoint(context.Background())
		if err == nil && c.Size == size {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("checkpoint %+v, %v; want size %d", c, err, size)
		}
	}
}
