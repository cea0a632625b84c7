package interop

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// patience bounds every wait for a process on a busy machine.
const patience = time.Minute

// publisher is the one whom every service here admits.
const publisher = "https://wabbit.example"

// site is one scittd with a registry behind its front.
type site struct {
	dir            string // of the service, in service/, and its publisher
	service        string // URL
	host           string // that clients push to: the service's, unless -direct
	user, password string // that may push; "": everybody may
	token          string // that may register
	process        *exec.Cmd
}

// newSite starts a backend and a scittd before it.
func newSite(t *testing.T, b backend) *site {
	t.Helper()
	s := &site{dir: t.TempDir(), host: freeAddress(t)}
	s.service = "http://" + s.host
	u := b.start(t)
	s.user, s.password = u.user, u.password
	if u.host != "" {
		s.write(t, "upstream/config.json", dockerConfig(u.host, u.user, u.password))
		u.settings = append(u.settings, "--registry-host", u.host, "--registry-plain-http", "--registry-config", "upstream/config.json")
	}
	s.run(t, "scitt", "key", "generate", "-o", "publisher.pem")
	s.run(t, "scitt", "key", "public", "--key", "publisher.pem", "-o", "publisher.pub")
	// One caller does in a second here what people do in an hour.
	s.run(t, "scittd", append([]string{"init", "--dir", "service", "--url", s.service, "--listen", s.host,
		"--issuer", publisher, "--issuer-key", "publisher.pub",
		"--limits-caller-rate", "0", "--limits-address-rate", "0"}, u.settings...)...)
	s.token = strings.TrimSpace(s.run(t, "scittd", "token", "create", "interop", "--scope", "publish", "--expires", "1h", "--dir", "service"))
	s.write(t, "token", s.token)
	if u.host == "" {
		s.user, s.password = "interop", s.token
	} else if *directFlag {
		s.host = u.host
	}
	s.write(t, "docker/config.json", dockerConfig(s.host, s.user, s.password))
	s.serve(t)
	s.run(t, "scitt", "trust", "init", s.service, "--yes")
	return s
}

// dockerConfig is a docker config with one login, or none for user "".
func dockerConfig(host, user, password string) string {
	if user == "" {
		return "{}"
	}
	return fmt.Sprintf(`{"auths": {%q: {"auth": %q}}}`, host, base64.StdEncoding.EncodeToString([]byte(user+":"+password)))
}

func (s *site) write(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// command prepares a program that knows nothing of the user who runs the tests
// but the logins at this site. It works in dir.
func (s *site) command(dir, name string, args ...string) *exec.Cmd {
	if own := filepath.Join(*binFlag, name); exists(own) {
		name = own
	}
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TMPDIR=" + dir, "XDG_RUNTIME_DIR=" + dir,
		"DOCKER_CONFIG=" + filepath.Join(s.dir, "docker"),
		"REGISTRY_AUTH_FILE=" + filepath.Join(s.dir, "docker", "config.json"), // skopeo's
		"SCITT_CONFIG=" + filepath.Join(s.dir, "scitt.yaml"),
		"COSIGN_PASSWORD=",
	}
	return cmd
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// run runs a program in the site's folder. It has to succeed.
func (s *site) run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := output(s.command(s.dir, name, args...))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// output runs a command, and returns what it printed or an error that holds what
// it complained of.
func output(cmd *exec.Cmd) (string, error) {
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		verb := ""
		for _, arg := range cmd.Args[1:min(3, len(cmd.Args))] {
			if !strings.HasPrefix(arg, "-") {
				verb += " " + arg
			}
		}
		return "", fmt.Errorf("%s%s: %w: %s", filepath.Base(cmd.Path), verb, err, strings.TrimSpace(errs.String()+out.String()))
	}
	return out.String(), nil
}

// serve runs the service until the test ends.
func (s *site) serve(t *testing.T) {
	t.Helper()
	var log bytes.Buffer
	s.process = s.command(s.dir, "scittd", "serve", "--dir", "service")
	s.process.Stdout, s.process.Stderr = &log, &log
	if err := s.process.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.process.Wait() }()
	t.Cleanup(func() {
		err := errors.Join(s.process.Process.Signal(os.Interrupt), <-ended)
		if text := log.String(); err != nil || strings.Contains(text, "panic") {
			t.Errorf("scittd ended with %v\n%s", err, text)
		} else if t.Failed() {
			t.Logf("scittd's last lines:\n%s", text[max(0, len(text)-4000):])
		}
	})
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for begin := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		resp, err := client.Get(s.service + "/readyz")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		if len(ended) > 0 || time.Since(begin) > patience {
			t.Fatalf("scittd does not answer: %v", err)
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

func (s *site) path(name string) string { return filepath.Join(s.dir, name) }
