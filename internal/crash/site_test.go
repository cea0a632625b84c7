package crash

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/ledger/ledgertest"
)

// patience bounds every wait for a process on a busy machine.
const patience = time.Minute

const policy = `
version: 1
operators:
  - key: operator.pub
issuers:
  - iss: https://tests.wabbit.example
    key: tester.pub
    repositories: ["wabbit/*"]
repositories: [{match: net-monitor, to: wabbit/net-monitor}]
subjects: [intoto, sub]
visibility: public
`

// site is one log and the replicas that serve it, each with a folder and an
// address of its own.
type site struct {
	t        *testing.T
	dir      string
	token    string
	replicas []*replica
}

// replica is one scittd: now running, now killed.
type replica struct {
	site    *site
	dir     string
	flags   []string // of serve, besides its configuration
	url     string
	http    *http.Client
	process *os.Process
	exited  chan struct{} // closed when process has ended
}

// newSite makes a log with init and settings, and starts its replicas.
func newSite(t *testing.T, replicas int, settings ...string) *site {
	t.Helper()
	s := &site{t: t, dir: t.TempDir()}
	for _, name := range []string{"operator", "tester"} {
		s.keyPair(name)
	}
	if err := os.WriteFile(s.path("policy.yaml"), []byte(policy), 0o600); err != nil {
		t.Fatal(err)
	}
	for i := range replicas {
		address := freeAddress(t)
		r := &replica{site: s, dir: s.path(fmt.Sprintf("service%d", i)), url: "http://" + address, http: &http.Client{
			Transport: &http.Transport{MaxIdleConnsPerHost: 2 * clients}, Timeout: patience}}
		if i == 0 {
			s.run(shipped, append([]string{"init", "--dir", r.dir, "--url", r.url, "--listen", address,
				"--policy", "policy.yaml", "--keys-operator", "operator.pem"}, settings...)...)
			s.token = strings.TrimSpace(s.run(shipped, "token", "create", "crash", "--scope", "publish", "--expires", "24h", "--dir", r.dir))
		} else {
			s.run("cp", "-a", s.replicas[0].dir, r.dir)
		}
		s.replicas = append(s.replicas, r)
		t.Cleanup(func() {
			r.kill()
			r.http.CloseIdleConnections()
			if t.Failed() {
				t.Logf("the last lines of %s:\n%s", r.dir, r.tail())
			}
		})
		r.start("")
	}
	return s
}

func (s *site) path(name string) string { return filepath.Join(s.dir, name) }

// keyPair makes name.pem and name.pub.
func (s *site) keyPair(name string) {
	s.t.Helper()
	key := ledgertest.NewKey(s.t)
	private, err := cose.MarshalPrivatePEM(key)
	if err != nil {
		s.t.Fatal(err)
	}
	public, err := cose.MarshalPublicPEM(key.Public())
	if err != nil {
		s.t.Fatal(err)
	}
	for file, pem := range map[string][]byte{name + ".pem": private, name + ".pub": public} {
		if err := os.WriteFile(s.path(file), pem, 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
}

// freeAddress is a loopback address that was free a moment ago.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// run runs a program that has to succeed, and returns what it prints.
func (s *site) run(name string, args ...string) string {
	s.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = s.dir
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		s.t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out, errs.Bytes())
	}
	return string(out)
}

// start runs the replica until it is killed, and waits until it answers. With
// fail, SCITTD_FAILPOINT of a binary that has them, it may never do so.
func (r *replica) start(fail string) {
	r.site.t.Helper()
	binary := shipped
	if fail != "" {
		binary = chaos
	}
	log, err := os.OpenFile(r.dir+".log", os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		r.site.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(binary, append([]string{"serve", "--dir", r.dir, "--listen", strings.TrimPrefix(r.url, "http://"),
		"--limits-caller-rate", "0", "--limits-address-rate", "0", "--log-level", "warn"}, r.flags...)...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = r.site.dir, log, log
	cmd.Env = []string{"HOME=" + r.site.dir, "TMPDIR=" + r.site.dir, "SCITTD_FAILPOINT=" + fail}
	if err := services.start(cmd); err != nil {
		r.site.t.Fatal(err)
	}
	exited := make(chan struct{})
	r.process, r.exited = cmd.Process, exited
	go func() {
		cmd.Wait() // how it ended does not matter
		close(exited)
	}()
	for deadline := time.Now().Add(patience); ; time.Sleep(2 * time.Millisecond) {
		resp, err := r.http.Get(r.url + "/healthz")
		if err == nil {
			resp.Body.Close()
			return
		}
		if r.ended() && fail != "" {
			return
		}
		if r.ended() || time.Now().After(deadline) {
			r.site.t.Fatalf("%s does not come back after a kill: %v\n%s", r.dir, err, r.tail())
		}
	}
}

// ended says that the process is gone, whoever ended it.
func (r *replica) ended() bool {
	select {
	case <-r.exited:
		return true
	default:
		return false
	}
}

// kill ends the replica with SIGKILL, if it did not end before.
func (r *replica) kill() {
	if r.process == nil {
		return
	}
	if err := r.process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		r.site.t.Error(err)
	}
	<-r.exited
	r.http.CloseIdleConnections()
}

// stop ends the replica as an operator does.
func (r *replica) stop() {
	r.site.t.Helper()
	if err := r.process.Signal(syscall.SIGTERM); err != nil {
		r.site.t.Error(err)
	}
	select {
	case <-r.exited:
	case <-time.After(patience):
		r.site.t.Fatalf("%s does not end when it is told to\n%s", r.dir, r.tail())
	}
	r.http.CloseIdleConnections()
}

// tail is the end of what the replica logged.
func (r *replica) tail() []byte {
	text, err := os.ReadFile(r.dir + ".log")
	if err != nil {
		return []byte(err.Error())
	}
	return text[max(0, len(text)-3000):]
}

// do sends a request. What breaks on the wire is an error, for that is what
// servers that are killed do.
func (r *replica) do(method, path string, body []byte) (status int, content []byte, err error) {
	req, err := http.NewRequestWithContext(context.Background(), method, r.url+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Authorization", "Bearer "+r.site.token)
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/cose")
	}
	resp, err := r.http.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	content, err = io.ReadAll(resp.Body)
	return resp.StatusCode, content, err
}

func TestTheBinaryThatShipsHasNoFailpoints(t *testing.T) {
	for binary, want := range map[string]bool{shipped: false, chaos: true} {
		b, err := os.ReadFile(binary)
		if err != nil {
			t.Fatal(err)
		}
		if got := bytes.Contains(b, []byte("SCITTD_FAILPOINT")); got != want {
			t.Errorf("%s knows SCITTD_FAILPOINT: %v, want %v", filepath.Base(binary), got, want)
		}
	}
}
