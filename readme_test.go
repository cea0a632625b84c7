package scittd_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestTheReadmesFiveCommandsLeadToAVerifiedReceipt runs them as they stand, but
// for the port, the folder and the image, which the README leaves to its reader.
func TestTheReadmesFiveCommandsLeadToAVerifiedReceipt(t *testing.T) {
	commands := readmeCommands(t)
	work := t.TempDir()
	kit, app, sbom := filepath.Join(work, "kit"), filepath.Join(work, "app"), filepath.Join(work, "sbom.json")
	shell(t, "go build -o "+kit+" ./demo/kit && CGO_ENABLED=0 go build -o "+app+" ./demo/net-monitor && "+kit+" sbom "+app+" > "+sbom)

	port := freePort(t)
	fit := strings.NewReplacer(
		"localhost:8080", "localhost:"+port,
		"$PWD/dev/", work+"/dev/",
		"--dir dev", "--dir "+work+"/dev --listen 127.0.0.1:"+port,
		"crane copy YOUR-IMAGE", kit+" image "+app,
		"YOUR-SBOM.json", sbom,
	)
	for i, command := range commands {
		commands[i] = fit.Replace(command)
	}
	build, serve, rest := commands[0], commands[1], commands[2:]
	shell(t, build)
	start(t, "exec "+serve, "127.0.0.1:"+port)
	out := shell(t, strings.Replace(build, "make build && ", "", 1)+"\n"+strings.Join(rest, "\n"))
	for _, want := range []string{"receipt verified", "OK    inclusion", "verified: 1 of 1 statements"} {
		if !strings.Contains(out, want) {
			t.Errorf("the output lacks %q:\n%s", want, out)
		}
	}
}

// readmeCommands are the lines of the first block below the heading.
func readmeCommands(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, ok := strings.Cut(string(text), "## From nothing to a verified receipt")
	if !ok {
		t.Fatal("README.md has lost its five commands")
	}
	_, block, _ := strings.Cut(after, "```sh\n")
	block, _, _ = strings.Cut(block, "```")
	commands := strings.Split(strings.TrimSpace(block), "\n")
	if len(commands) != 5 {
		t.Fatalf("the README promises five commands and has %d:\n%s", len(commands), block)
	}
	return commands
}

func shell(t *testing.T, script string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "bash", "-euc", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%s\n%v\n%s", script, err, out)
	}
	return string(out)
}

// start runs script until the test ends and waits until address answers.
func start(t *testing.T, script, address string) {
	t.Helper()
	cmd := exec.Command("bash", "-euc", script)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Error(err)
		}
		if err := <-ended; err != nil {
			t.Errorf("%s: %v\n%s", script, err, out.String())
		}
	})
	for range 600 {
		if conn, err := net.Dial("tcp", address); err == nil {
			conn.Close()
			return
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatal(fmt.Errorf("%s ended: %w", script, err))
		case <-time.After(100 * time.Millisecond):
		}
	}
	t.Fatalf("%s does not listen on %s", script, address)
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}
