// Command scitt signs claims about artifacts, registers them with a SCITT
// transparency service, finds them and verifies their receipts. It keeps no
// state but a configuration and a trust file, and links no server code.
//
// The result of a command goes to standard output, everything else to standard
// error. What statements, services and registries say is a stranger's text, and
// is escaped before it is shown.
package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal does not wait
	os.Exit(run(ctx, os.Args[1:], process{os.Getenv, os.Stdin, os.Stdout, os.Stderr}))
}

// process is what a command may use of its surroundings.
type process struct {
	env    func(string) string
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer
}

// run executes one command line and returns its exit code. ctx ends with the
// user's patience: an interrupt; --timeout is applied here.
func run(ctx context.Context, args []string, p process) int {
	a := &app{process: p}
	began := false // cobra found the command, its flags and its arguments right
	release := func() {}
	root := &cobra.Command{
		Use:           "scitt",
		Short:         "Sign, register, find and verify claims about artifacts",
		Long:          "Sign claims about artifacts, register them with a SCITT transparency service,\nfind them, and verify their receipts, offline too.\n\n" + exitCodes,
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			began = true
			if err := a.prepare(cmd.Name(), cmd.Flags()); err != nil {
				return err
			}
			limited, cancel := context.WithTimeout(ctx, a.timeout)
			release = cancel
			cmd.SetContext(limited)
			return nil
		},
	}
	root.SetArgs(args)
	root.SetIn(p.stdin)
	root.SetOut(p.stdout)
	root.SetErr(p.stderr)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usage("%w", err).try("%s --help", cmd.CommandPath())
	})
	a.addGlobalFlags(root.PersistentFlags())
	root.AddCommand(keyCommand(a), signCommand(a), attachCommand(a), submitCommand(a), statusCommand(a),
		queryCommand(a), fetchCommand(a), inspectCommand(a), verifyCommand(a), trustCommand(a), envCommand(a), versionCommand(a))
	cmd, err := root.ExecuteContextC(ctx)
	release()
	if f := (*failure)(nil); err != nil && !began && !errors.As(err, &f) {
		err = usage("%w", err).try("%s --help", cmd.CommandPath())
	}
	return a.exit(ctx, err)
}

// group is a command that only holds others: a mistyped one is an error.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(commands...)
	return cmd
}
