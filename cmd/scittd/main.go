// Command scittd runs a SCITT transparency service in front of an OCI registry,
// and holds the verbs of its operator. It wires the rooms together; what they
// do is told in ARCHITECTURE.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/scittd/scittd/internal/memory"
	"github.com/scittd/scittd/ledger"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal does not wait
	os.Exit(run(ctx, os.Args[1:], process{os.Getenv, os.Stdout, os.Stderr}))
}

// process is what a command may use of its surroundings.
type process struct {
	env    func(string) string
	stdout io.Writer
	stderr io.Writer
}

// errNothing marks a command that found nothing of what it was told to look at:
// exit code 3.
var errNothing = errors.New("nothing found")

// errUsage marks what the caller of a command got wrong: exit code 2.
var errUsage = errors.New("usage")

// errRefused marks what a registration policy refuses, or would: exit code 16.
// errToken marks a token that is missing or does not suffice: 4.
var (
	errRefused = errors.New("refused by the registration policy")
	errToken   = errors.New("authentication, permission")
)

// run executes one command line and returns its exit code: 0 done, 1 failed
// (retrying may help), 2 usage or configuration, 3 nothing found, 4 authentication
// or permission, 12 a decision or receipt is not what replay finds, 13 what should
// be proven is not, 15 the log misbehaved: it is not what was signed or remembered,
// 16 refused by the registration policy.
func run(ctx context.Context, args []string, p process) int {
	began := false // cobra found the command, its flags and its arguments right
	root := &cobra.Command{
		Use:              "scittd",
		Short:            "SCITT transparency service for OCI registries",
		SilenceUsage:     true,
		SilenceErrors:    true,
		PersistentPreRun: func(*cobra.Command, []string) { began = true },
	}
	root.SetArgs(args)
	root.SetOut(p.stdout)
	root.SetErr(p.stderr)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%w: %w\nTry:   %s --help", errUsage, err, cmd.CommandPath())
	})
	root.AddCommand(initCommand(p), serveCommand(p), devCommand(p), migrateCommand(p),
		tokenCommand(p), policyCommand(p), evidenceCommand(p), keysCommand(p), logCommand(p), auditCommand(p), outboxCommand(p), registryCommand(p), checkCommand(p), versionCommand(p))
	err := root.ExecuteContext(ctx)
	switch {
	case err == nil:
		return 0
	case !began && !errors.Is(err, errUsage):
		err = fmt.Errorf("%w: %w", errUsage, err)
	}
	fmt.Fprintln(p.stderr, "Error:", err)
	if errors.Is(err, errUsage) || errors.Is(err, errConfig) {
		return 2
	}
	if errors.Is(err, errNothing) {
		return 3
	}
	if errors.Is(err, errMisbehaved) || errors.Is(err, memory.ErrRollback) || errors.Is(err, ledger.ErrCorrupt) {
		return 15
	}
	if errors.Is(err, errDeviates) {
		return 12
	}
	if errors.Is(err, errUnproven) {
		return 13
	}
	if errors.Is(err, errRefused) {
		return 16
	}
	if errors.Is(err, errToken) {
		return 4
	}
	return 1
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
