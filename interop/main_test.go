package interop

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
)

var (
	fullFlag = flag.Bool("full", false, "every client and every backend, and the table; else those that need no further program")
	// What a client cannot do without the front, it need not do with it.
	directFlag = flag.Bool("direct", false, "leave the front out: the clients speak with the registries themselves")
	binFlag    = flag.String("bin", "", "folder of scittd and scitt; else they are built")
	outFlag    = flag.String("out", "", "Markdown file to put the table into")
)

func TestMain(m *testing.M) {
	flag.Parse()
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "interop:", err)
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

func run(m *testing.M) (code int, err error) {
	if *binFlag == "" {
		dir, err := os.MkdirTemp("", "scittd-interop-")
		if err != nil {
			return 1, err
		}
		defer os.RemoveAll(dir)
		build := exec.Command("go", "build", "-o", dir+"/", "./cmd/scittd", "./cmd/scitt")
		build.Dir, build.Env = "..", append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return 1, fmt.Errorf("build the binaries: %w\n%s", err, out)
		}
		*binFlag = dir
	}
	if *binFlag, err = filepath.Abs(*binFlag); err != nil {
		return 1, err
	}
	code = m.Run()
	if *fullFlag {
		err = theTable.publish(*outFlag)
	}
	return code, err
}
