package compat

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

var (
	dsnFlag  = flag.String("dsn", "", "the database to look at; a throw-away PostgreSQL when empty")
	fullFlag = flag.Bool("full", false, "everything, and the table; else a short form of some checks")
	outFlag  = flag.String("out", "", "Markdown file to put the table into, in place of the same engine's older one")
)

// theEngine is what all tests look at.
var theEngine *engine

func TestMain(m *testing.M) {
	flag.Parse()
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "compat:", err)
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
	dsn := *dsnFlag
	if dsn == "" {
		var stop func() error
		if dsn, stop, err = launch(); err != nil {
			return 1, err
		}
		defer func() { err = errors.Join(err, stop()) }()
	}
	if theEngine, err = lookAt(dsn); err != nil {
		return 1, err
	}
	code = m.Run()
	if *fullFlag {
		err = table.publish(*outFlag)
	}
	return code, err
}
