package main

import (
	"bufio"
	"errors"
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
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

var update = flag.Bool("update", false, "rewrite what the scripts compare standard output with")

// patience bounds every wait for a process on a busy machine.
const patience = time.Minute

// TestScripts runs testdata/script: the real run against the real scittd, on
// loopback. Besides testscript's own commands there are:
//
//	exits CODE COMMAND...       run a command that must end with that exit code
//	dev [FLAG...]               start scittd dev in $WORK/dev; sets URL, HOST, SCITT_CONFIG
//	serve DIR [FLAG...]         scittd init and serve in DIR; sets URL, HOST
//	stop                        stop the service
//	setenv NAME FILE            set NAME to the first line of FILE, or of stdout
//	flip FILE                   flip one bit of the last byte
//	answer STATUS TYPE FILE     start a host that answers everything so; sets URL, HOST; $WORK/asked holds the requests
//	interrupt COMMAND...        run against a host that never answers, interrupt while it waits; want exit 130
//
// scittd and kit are in PATH.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       *update,
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", e.Getenv("PATH")+string(os.PathListSeparator)+tools)
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("DOCKER_CONFIG", filepath.Join(e.WorkDir, "docker"))
			e.Values["service"] = new(services)
			return nil
		},

		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits": exits, "dev": dev, "serve": serve, "stop": stop, "setenv": setenv,
			"flip": flip, "answer": answer, "interrupt": interrupt,
		},
	})
}

// services are those that a script runs.
type services []*exec.Cmd

func usageOf(ts *testscript.TestScript, neg bool, ok bool, text string) {
	if neg || !ok {
		ts.Fatalf("usage: %s", text)
	}
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	usageOf(ts, neg, len(args) >= 2, "exits CODE COMMAND...")
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	code := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit := (*exec.ExitError)(nil)
		if !errors.As(err, &exit) {
			ts.Fatalf("%s: %v", args[1], err)
		}
		code = exit.ExitCode()
	}
	if code != want {
		ts.Fatalf("exit code %d, want %d", code, want)
	}
}

func dev(ts *testscript.TestScript, neg bool, args []string) {
	usageOf(ts, neg, true, "dev [FLAG...]")
	dir := ts.MkAbs("dev")
	start(ts, append([]string{"dev", "--listen", "127.0.0.1:0", "--dir", dir}, args...), func(line string) bool {
		if rest, ok := strings.CutPrefix(line, "Service "); ok {
			at(ts, strings.Fields(rest)[0])
		}
		return strings.Contains(line, "export SCITT_CONFIG=")
	})
	ts.Setenv("SCITT_CONFIG", filepath.Join(dir, "client", "client.yaml"))
}

func serve(ts *testscript.TestScript, neg bool, args []string) {
	usageOf(ts, neg, len(args) > 0, "serve DIR [FLAG...]")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	_, port, err := net.SplitHostPort(l.Addr().String())
	ts.Check(err)
	ts.Check(l.Close())
	at(ts, "http://localhost:"+port)
	ts.Check(ts.Exec("scittd", append([]string{"init", "--dir", args[0], "--url", ts.Getenv("URL"), "--listen", "127.0.0.1:" + port}, args[1:]...)...))
	start(ts, []string{"serve", "--dir", ts.MkAbs(args[0])}, nil)
	deadline := time.Now().Add(patience)
	for {
		c, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("the service does not answer: %v", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// at tells a script where its service is.
func at(ts *testscript.TestScript, url string) {
	ts.Setenv("URL", url)
	ts.Setenv("HOST", strings.TrimPrefix(url, "http://"))
}

// start runs scittd until the script ends or says stop. ready, if any, is shown
// the lines of its standard output until it says that they were enough.
func start(ts *testscript.TestScript, args []string, ready func(line string) bool) {
	cmd := exec.Command(filepath.Join(tools, "scittd"), args...)
	log, err := os.Create(ts.MkAbs("scittd.log"))
	ts.Check(err)
	cmd.Stderr = log
	out, err := cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	ts.Check(log.Close())
	running := ts.Value("service").(*services)
	if *running == nil {
		ts.Defer(func() { end(running) })
	}
	*running = append(*running, cmd)
	if ready == nil {
		return
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if ready(lines.Text()) {
			return
		}
	}
	ts.Fatalf("scittd %v did not start: see scittd.log", args)
}

func stop(ts *testscript.TestScript, neg bool, args []string) {
	usageOf(ts, neg, len(args) == 0, "stop")
	if !end(ts.Value("service").(*services)) {
		ts.Fatalf("there is no service to stop")
	}
}

// end stops every service as its operator would, and kills it when it does not
// stop. It says whether there was one.
func end(running *services) bool {
	all := *running
	*running = nil
	for _, cmd := range all {
		cmd.Process.Signal(syscall.SIGTERM)
		killer := time.AfterFunc(patience, func() { cmd.Process.Kill() })
		cmd.Wait()
		killer.Stop()
	}
	return len(all) > 0
}

func setenv(ts *testscript.TestScript, neg bool, args []string) {
	usageOf(ts, neg, len(args) == 2, "setenv NAME FILE")
	line, _, _ := strings.Cut(ts.ReadFile(args[1]), "\n")
	ts.Setenv(args[0], line)
}

func flip(ts *testscript.TestScript, neg bool, args []string) {
	usageOf(ts, neg, len(args) == 1, "flip FILE")
	b := []byte(ts.ReadFile(args[0]))
	b[len(b)-1] ^= 1
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b, 0o644))
}

func answer(ts *testscript.TestScript, neg bool, args []string) {
	usageOf(ts, neg, len(args) == 3, "answer STATUS TYPE FILE")
	code, err := strconv.Atoi(args[0])
	ts.Check(err)
	content := []byte(ts.ReadFile(args[2]))
	asked, err := os.Create(ts.MkAbs("asked"))
	ts.Check(err)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(asked, "%s %s %s\n", r.Method, r.URL, r.Header.Get("Authorization"))
		w.Header().Set("Content-Type", args[1])
		w.WriteHeader(code)
		w.Write(content)
	}))
	ts.Defer(func() {
		server.Close()
		asked.Close()
	})
	at(ts, server.URL)
}

func interrupt(ts *testscript.TestScript, neg bool, args []string) {
	usageOf(ts, neg, len(args) > 0, "interrupt COMMAND...")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	defer l.Close()
	path := filepath.Join(filepath.SplitList(ts.Getenv("PATH"))[0], args[0])
	cmd := exec.Command(path, append(args[1:], "--service", "http://"+l.Addr().String())...)
	cmd.Dir, cmd.Env = ts.MkAbs("."), []string{"HOME=" + ts.MkAbs(".")}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	ts.Check(cmd.Start())
	stuck := time.AfterFunc(patience, func() { cmd.Process.Kill(); l.Close() })
	defer stuck.Stop()
	c, err := l.Accept()
	ts.Check(err)
	defer c.Close()
	_, err = io.ReadFull(c, make([]byte, 1)) // it has sent its request, and waits
	ts.Check(err)
	ts.Check(cmd.Process.Signal(os.Interrupt))
	err = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != exitInterrupted {
		ts.Fatalf("exit code %d (%v), want %d\n%s", code, err, exitInterrupted, stderr.String())
	}
	if stderr.String() != "Error: interrupted\n" {
		ts.Fatalf("stderr %q", stderr.String())
	}
}
