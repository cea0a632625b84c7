package main

import (
	"errors"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// The scripts run the real binaries, each in a folder of its own. $LISTEN is a
// free loopback address, $URL the service there, $HOST the host that dev names it by.
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			listen := freeAddress(t)
			e.Setenv("PATH", bin+":"+e.Getenv("PATH"))
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("LISTEN", listen)
			e.Setenv("URL", "http://"+listen)
			e.Setenv("HOST", "localhost"+listen[strings.LastIndex(listen, ":"):])
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"refused": refusedCmd, "listening": listeningCmd},
	})
}

// refusedCmd is refused CODE PROGRAM ARG...: it ends with that exit code and one
// line "Error: ...", which stderr looks at then, and prints no result.
func refusedCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: refused CODE PROGRAM ARG...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	code, exit := 0, (*exec.ExitError)(nil)
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &exit) {
		code = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	errs := ts.ReadFile("stderr")
	if code != want {
		ts.Fatalf("exit %d, want %d\n%s%s", code, want, ts.ReadFile("stdout"), errs)
	}
	if n := strings.Count("\n"+errs, "\nError: "); n != 1 {
		ts.Fatalf("%d errors, want 1\n%s", n, errs)
	}
}

// listeningCmd is listening URL: it waits for a service that answers there.
func listeningCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: listening URL")
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		resp, err := client.Get(args[0] + "/healthz")
		if err == nil {
			ts.Check(resp.Body.Close())
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("nobody listens: %v", err)
		}
	}
}
