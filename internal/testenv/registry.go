package testenv

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

const registryConfig = `version: 0.1
log: {level: warn, accesslog: {disabled: true}}
storage:
  filesystem: {rootdirectory: %q}
  delete: {enabled: true}
http:
  addr: 127.0.0.1:%d
%s`

// Registry starts Debian's docker-registry (CNCF distribution 2.8: no referrers
// API) with empty storage and deletion allowed, and returns its host:port. It
// is gone when the test ends.
func Registry(t testing.TB) string {
	t.Helper()
	return RegistryOf(t, "docker-registry", "")
}

// RegistryOf does so with another program of CNCF distribution, in PATH, and with
// further sections of its configuration, such as auth.
func RegistryOf(t testing.TB, program, sections string) string {
	t.Helper()
	host, w, err := startRegistry(program, sections)
	fatal(t, err)
	t.Cleanup(func() {
		if err := w.close(); err != nil {
			t.Errorf("stop the test's registry: %v", err)
		}
	})
	return host
}

// LaunchRegistry does so for programs that are no tests. The registry is the one
// child of process pid, which stop ends.
func LaunchRegistry(program, sections string) (host string, pid int, stop func() error, err error) {
	host, w, err := startRegistry(program, sections)
	if err != nil {
		return "", 0, nil, err
	}
	return host, w.cmd.Process.Pid, w.close, nil
}

func startRegistry(program, sections string) (host string, _ *watcher, err error) {
	bin, err := exec.LookPath(program)
	if err != nil {
		return "", nil, fmt.Errorf("%s is not installed: %s", program, installHint)
	}
	for try := 1; ; try++ {
		port, err := freePort()
		if err != nil {
			return "", nil, err
		}
		w, err := serveRegistry(bin, sections, port)
		if err == nil || try == tries {
			return "127.0.0.1:" + strconv.Itoa(port), w, err
		}
	}
}

func serveRegistry(bin, sections string, port int) (_ *watcher, err error) {
	dir, err := folder("scittd-registry-")
	if err != nil {
		return nil, err
	}
	// The user whom servers run as may not see the folder of a program that was
	// built here.
	if bin, err = copyProgram(bin, dir); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	config, logPath := filepath.Join(dir, "config.yml"), filepath.Join(dir, "log")
	text := fmt.Sprintf(registryConfig, filepath.Join(dir, "data"), port, sections)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	log, err := os.Create(logPath)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	defer log.Close()
	w, err := watch(log, `"$1" serve "$2/config.yml" & pid=$!; read -r _; kill "$pid"; wait "$pid"; rm -rf "$2"`, bin, dir)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	err = eventually(10*time.Second, func() error {
		resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/v2/", port))
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		// The API version header tells the registry from whoever else took
		// the port.
		if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusUnauthorized || resp.Header.Get("Docker-Distribution-Api-Version") == "" {
			return fmt.Errorf("GET /v2/: %s", resp.Status)
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s does not answer: %w\n%s", bin, err, tail(logPath)), w.close())
	}
	return w, nil
}

func copyProgram(bin, dir string) (string, error) {
	program, err := os.ReadFile(bin)
	if err != nil {
		return "", err
	}
	bin = filepath.Join(dir, filepath.Base(bin))
	return bin, os.WriteFile(bin, program, 0o755)
}
