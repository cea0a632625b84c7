package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
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

	"go.uber.org/goleak"

	"github.com/scittd/scittd/internal/testenv"
)

// bin is the folder of the real binaries: scittd and scitt as they ship, kit,
// which plays the build system, and net-monitor, which it packs.
var bin string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "scittd-bin-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	bin = dir
	build := exec.Command("go", "build", "-o", bin+"/", "./cmd/scittd", "./cmd/scitt", "./demo/kit", "./demo/net-monitor")
	build.Dir, build.Env = "../..", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the binaries: %v\n%s", err, out)
		return 1
	}
	code := m.Run()
	if err := testenv.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	return code
}

// patience bounds every wait for a process on a busy machine.
const patience = time.Minute

// deployment is a way to run scittd.
type deployment struct {
	name string
	// parts starts database and registry, and returns the registry's host (""
	// when it is embedded) and the settings that lead to both.
	parts func(t *testing.T) (registry string, settings []string)
}

var (
	sqliteEmbedded = deployment{"SQLite and the embedded registry", func(*testing.T) (string, []string) { return "", nil }}

	postgresDocker = deployment{"PostgreSQL and docker-registry", func(t *testing.T) (string, []string) {
		registry := testenv.Registry(t)
		return registry, []string{"--database-url", testenv.Database(t), "--registry-host", registry, "--registry-plain-http"}
	}}
)

// site is one scittd to be: a folder, its URL, the registry beside it.
type site struct {
	t        *testing.T
	dir      string // of everything; the service's own folder is dir/service
	listen   string
	url      string
	registry string   // host that images are pushed to
	settings []string // flags of init
	http     *http.Client
}

func newSite(t *testing.T, d deployment) *site {
	t.Helper()
	s := &site{t: t, dir: t.TempDir(), listen: freeAddress(t), http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 256}, Timeout: patience}}
	t.Cleanup(func() {
		s.http.CloseIdleConnections()
		if _, err := os.Stat(s.path("service.log")); err == nil && t.Failed() {
			t.Logf("the service's last lines:\n%s", s.tail())
		}
	})
	s.url = "http://" + s.listen
	if s.registry, s.settings = d.parts(t); s.registry == "" {
		s.registry = s.listen
	}
	return s
}

// freeAddress is a loopback address that was free a moment ago.
func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func (s *site) path(name string) string { return filepath.Join(s.dir, name) }

func (s *site) write(name, text string) string {
	s.t.Helper()
	if err := os.MkdirAll(filepath.Dir(s.path(name)), 0o700); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(s.path(name), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return s.path(name)
}

func (s *site) read(name string) []byte {
	s.t.Helper()
	text, err := os.ReadFile(s.path(name))
	if err != nil {
		s.t.Fatal(err)
	}
	return text
}

// command prepares a program that knows nothing of the user who runs the tests.
func (s *site) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(bin, name), args...)
	if _, err := os.Stat(cmd.Path); err != nil {
		cmd = exec.Command(name, args...) // a tool of the system; missing, it fails
	}
	cmd.Dir = s.dir
	cmd.Env = []string{
		"PATH=" + bin + ":" + os.Getenv("PATH"), "HOME=" + s.dir, "TMPDIR=" + s.dir,
		"DOCKER_CONFIG=" + s.path("docker"), "SCITT_CONFIG=" + s.path("scitt.yaml"),
	}
	return cmd
}

// exit runs a program and returns its exit code and what it printed.
func (s *site) exit(name string, args ...string) (code int, stdout, stderr string) {
	s.t.Helper()
	cmd := s.command(name, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		s.t.Fatalf("%s: %v", name, err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// run runs a program that has to succeed, and returns its standard output.
func (s *site) run(name string, args ...string) string {
	s.t.Helper()
	code, stdout, stderr := s.exit(name, args...)
	if code != 0 {
		s.t.Fatalf("%s %s: exit %d\n%s%s", name, strings.Join(args, " "), code, stdout, stderr)
	}
	return stdout
}

// refused runs a program that has to end with that exit code and one error, in
// which each of these texts stands.
func (s *site) refused(want int, texts []string, name string, args ...string) {
	s.t.Helper()
	code, stdout, stderr := s.exit(name, args...)
	if code != want {
		s.t.Fatalf("%s %s: exit %d, want %d\n%s%s", name, strings.Join(args, " "), code, want, stdout, stderr)
	}
	if n := strings.Count("\n"+stderr, "\nError"); n != 1 {
		s.t.Errorf("%s %s: %d errors, want 1\n%s", name, strings.Join(args, " "), n, stderr)
	}
	for _, text := range texts {
		if !strings.Contains(stderr, text) {
			s.t.Errorf("%s %s: %q is missing in\n%s", name, strings.Join(args, " "), text, stderr)
		}
	}
}

// init makes the service's log from policy.yaml, with an operator key that the
// policy can name as service/keys/operator.pub.
func (s *site) init(policy string) {
	s.t.Helper()
	if err := os.MkdirAll(s.path("service/keys"), 0o700); err != nil {
		s.t.Fatal(err)
	}
	s.keyPair("service/keys/operator")
	s.write("policy.yaml", policy)
	s.run("scittd", append([]string{"init", "--dir", "service", "--url", s.url, "--listen", s.listen, "--policy", "policy.yaml"}, s.settings...)...)
}

// keyPair makes name.pem and name.pub.
func (s *site) keyPair(name string) {
	s.t.Helper()
	s.run("scitt", "key", "generate", "-o", name+".pem")
	s.run("scitt", "key", "public", "--key", name+".pem", "-o", name+".pub")
}

// token makes a token and returns it; it is in the file name.token too.
func (s *site) token(name, scopes string) string {
	s.t.Helper()
	secret := strings.TrimSpace(s.run("scittd", "token", "create", name, "--scope", scopes, "--expires", "1h", "--dir", "service"))
	s.write(name+".token", secret+"\n")
	return secret
}

// login lets OCI clients push with a token: it is the password.
func (s *site) login(token string) {
	s.t.Helper()
	s.write("docker/config.json", fmt.Sprintf(`{"auths": {%q: {"auth": %q}}}`, s.registry, base64.StdEncoding.EncodeToString([]byte("ci:"+token))))
}

// tail is the end of what the service logged.
func (s *site) tail() string {
	text, err := os.ReadFile(s.path("service.log"))
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-3000):])
}

// server is a running scittd.
type server struct {
	*site
	process *os.Process
	exited  chan int // exit code, -1 after a signal
}

// serve starts the service and waits until it answers.
func (s *site) serve(flags ...string) *server {
	s.t.Helper()
	log, err := os.OpenFile(s.path("service.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	cmd := s.command("scittd", append([]string{"serve", "--dir", "service"}, flags...)...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	v := &server{site: s, process: cmd.Process, exited: make(chan int, 1)}
	go func() {
		cmd.Wait() // the exit code says it all
		v.exited <- cmd.ProcessState.ExitCode()
		close(v.exited)
	}()
	s.t.Cleanup(func() {
		cmd.Process.Kill()
		<-v.exited
	})
	v.await("to answer", func() bool {
		resp, err := s.http.Get(s.url + "/healthz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return v
}

// await waits for something that the running server brings about.
func (v *server) await(what string, done func() bool) {
	v.t.Helper()
	pause := 10 * time.Millisecond
	for deadline := time.Now().Add(2 * patience); !done(); time.Sleep(pause) {
		pause = min(2*pause, time.Second)
		select {
		case code := <-v.exited:
			v.t.Fatalf("waiting for the server %s: it ended with exit %d\n%s", what, code, v.tail())
		default:
		}
		if time.Now().After(deadline) {
			v.t.Fatalf("the server is too slow %s\n%s", what, v.tail())
		}
	}
}

// kill ends the server as a crash does. It may be called in any goroutine, and
// so may stop.
func (v *server) kill() {
	v.t.Helper()
	if err := v.process.Kill(); err != nil {
		v.t.Error(err)
	}
	<-v.exited
}

// stop asks the server to end, and expects that it does so cleanly.
func (v *server) stop() {
	v.t.Helper()
	if err := v.process.Signal(syscall.SIGTERM); err != nil {
		v.t.Error(err)
	}
	select {
	case code := <-v.exited:
		if code != 0 {
			v.t.Errorf("the server stopped with exit %d\n%s", code, v.tail())
		}
	case <-time.After(shutdownTime):
		v.t.Errorf("the server did not stop within %s\n%s", shutdownTime, v.tail())
	}
}

// answer is a response, read to its end.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// do sends a request. What breaks on the wire is an error, for that is what
// servers that are killed do.
func (s *site) do(ctx context.Context, method, path, token string, body []byte) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, s.url+path, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/cose")
	}
	resp, err := s.http.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, content}, err
}

// ask sends a request to a server that has to answer.
func (s *site) ask(method, path, token string, body []byte) answer {
	s.t.Helper()
	a, err := s.do(s.t.Context(), method, path, token, body)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	return a
}

// get reads what has to be there.
func (s *site) get(path, token string) []byte {
	s.t.Helper()
	a := s.ask(http.MethodGet, path, token, nil)
	if a.status != http.StatusOK {
		s.t.Fatalf("GET %s: %d\n%s", path, a.status, a.body)
	}
	return a.body
}

func (s *site) getJSON(path, token string, into any) {
	s.t.Helper()
	if err := json.Unmarshal(s.get(path, token), into); err != nil {
		s.t.Fatalf("GET %s: %v", path, err)
	}
}
