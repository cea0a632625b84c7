// Package testenv gives tests the real things they run against: throwaway
// PostgreSQL clusters and Debian's docker-registry, on loopback, with
// durability as the distribution ships it.
//
// It promises that a missing tool fails the test and says what to run (nothing
// is skipped), and that nothing outlives the test process, however that ends:
// every server has a watcher on a pipe that only the test process holds open;
// when the pipe closes, the watcher stops the server and removes its folder.
//
// A package that uses the shared cluster ends with
//
//	func TestMain(m *testing.M) { testenv.Main(m) }
//
// It knows nothing of ledgers or images, and nothing but tests and the demo
// imports it.
package testenv

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"sync"
	"syscall"
	"testing"

	"go.uber.org/goleak"
)

// installHint ends the message of every missing tool.
const installHint = "run scripts/testdeps (make test does), which installs what the tests need"

// Main runs the tests, stops what Database started, and fails the run when a
// goroutine is left over. It does not return.
func Main(m *testing.M) {
	code := m.Run()
	if err := Stop(); err != nil {
		fmt.Fprintln(os.Stderr, "testenv:", err)
		code = max(code, 1)
	}
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// unprivileged returns the identity servers run under: PostgreSQL refuses to
// run as root. nil means the test's own.
var unprivileged = sync.OnceValues(func() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		if err != nil {
			return nil, err
		}
		gid, err := strconv.ParseUint(u.Gid, 10, 32)
		if err != nil {
			return nil, err
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, errors.New("running as root, and there is neither a user postgres nor nobody to run servers as")
})

// command prepares a program that runs unprivileged, in a session of its own
// so that a ^C meant for the test reaches it only through its watcher.
func command(name string, args ...string) (*exec.Cmd, error) {
	cred, err := unprivileged()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(name, args...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: cred}
	return cmd, nil
}

// folder makes a temporary folder that belongs to the servers' user.
func folder(pattern string) (string, error) {
	cred, err := unprivileged()
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", pattern)
	if err != nil {
		return "", err
	}
	if cred != nil {
		if err := os.Chown(dir, int(cred.Uid), int(cred.Gid)); err != nil {
			return "", errors.Join(err, os.RemoveAll(dir))
		}
	}
	return dir, nil
}

// watcher is a shell that waits for the end of its input: the end of the test
// process, or close.
type watcher struct {
	cmd  *exec.Cmd
	hold io.Closer
}

// watch starts script under a shell; args are $1, $2, …. The script reads its
// standard input before it cleans up.
func watch(log *os.File, script string, args ...string) (*watcher, error) {
	cmd, err := command("/bin/sh", append([]string{"-c", script, "testenv"}, args...)...)
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = log, log
	hold, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, hold.Close())
	}
	return &watcher{cmd, hold}, nil
}

// close ends the input and waits until the script has cleaned up.
func (w *watcher) close() error {
	return errors.Join(w.hold.Close(), w.cmd.Wait())
}

// freePort finds a loopback port that was free a moment ago; callers try again
// with another when it is taken meanwhile.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// tries is how often a server is started on another port before giving up.
const tries = 5

// tail returns the end of a log file, for error messages.
func tail(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-2000):])
}

func fatal(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("test environment: %v", err)
	}
}
