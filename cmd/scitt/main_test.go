package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// tools is the folder of the binaries as they ship: scittd, which the scripts
// run their services with, scitt, and kit, which plays the build system.
var tools string

func TestMain(m *testing.M) {
	testscript.Main(suite{m}, map[string]func(){"scitt": main, "shape": shape})
}

// suite builds the tools before the tests and removes them after.
type suite struct{ *testing.M }

func (s suite) Run() int {
	dir, err := os.MkdirTemp("", "scitt-tools-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	tools = dir
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", dir+"/", "./cmd/scittd", "./cmd/scitt", "./demo/kit")
	build.Dir, build.Env = filepath.Join("..", ".."), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the tools: %v\n%s", err, out)
		return 1
	}
	return s.M.Run()
}
