package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/scittd/scittd/storage"
)

func registryProbe(p process) *cobra.Command {
	var dir, file, format string
	cmd := &cobra.Command{
		Use:   "probe [--dir DIR | --config FILE] HOST/REPOSITORY",
		Short: "Find out how a registry lists referrers, and what it refuses",
		Long: `Push a small artifact and others that refer to it into a repository, look at what
is listed, and delete all of it again. It needs the right to push; where it may
not delete, a few small manifests without a tag are left behind, and it says so.
Credentials and profiles are those of the configuration, if there is one, else of
the docker config.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if format != "text" && format != "json" {
				return fmt.Errorf("%w: --format %q is none of text, json", errUsage, format)
			}
			c, err := configIfAny(cmd, p, dir, file)
			if err != nil {
				return err
			}
			host, repository, err := storage.SplitRepository(args[0])
			if err != nil {
				return fmt.Errorf("%w: %w", errUsage, err)
			}
			if host != c.Registry.Host {
				c.Registry.Host, c.Registry.PlainHTTP, c.Registry.CAFile, c.Registry.TokenHosts = host, c.Registry.PlainHTTP && c.Registry.Host == "", "", nil
			}
			registry, err := remoteRegistry(c, nil)
			if err != nil {
				return err
			}
			defer registry.Close()
			found, err := storage.Placer{}.Probe(cmd.Context(), registry, repository)
			if err != nil {
				return err
			}
			if format == "json" {
				return printJSON(p.stdout, found)
			}
			return printProbe(p.stdout, found)
		},
	}
	cmd.Flags().StringVar(&format, "format", "text", "text or json")
	addLocationFlags(cmd, &dir, &file)
	return cmd
}

// configIfAny is the configuration, if there is one: a registry may be tried out
// before anything is set up, and a policy, too.
func configIfAny(cmd *cobra.Command, p process, dir, file string) (Config, error) {
	named := dir != "" || file != ""
	file, err := configFile(dir, file)
	if err != nil {
		return Config{}, err
	}
	c, err := loadConfig(file, p.env, cmd.Flags())
	if errors.Is(err, fs.ErrNotExist) && !named {
		c, err = loadConfig("", p.env, cmd.Flags())
	}
	if err != nil {
		return c, fmt.Errorf("%w: %w", errConfig, err)
	}
	return c, nil
}

func printProbe(w io.Writer, r storage.Report) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(t, "%s\t%s\n", name, value)
		}
	}
	line("repository", r.Registry+"/"+r.Repository)
	line("profile", r.Profile)
	line("empty config", r.EmptyConfig)
	line("OCI-Subject", r.Subject)
	line("referrers API", r.API)
	line("  filter", r.Filter)
	line("  pages", r.Paging)
	line("referrers tag", r.Tag)
	if r.Manifest > 0 {
		line("largest manifest", fmt.Sprintf("%d bytes, of 4 MiB", r.Manifest))
	}
	line("delete", r.Delete)
	line("image deleted", r.AfterDelete)
	if r.Left > 0 {
		line("left behind", fmt.Sprintf("%d manifests of type application/vnd.scittd.probe", r.Left))
	}
	line("note", r.Note)
	if r.Advice != "" {
		line("advice", fmt.Sprintf("registry.profiles: [%q]", r.Registry+" "+r.Advice))
	}
	return t.Flush()
}

func registryReconcile(p process) *cobra.Command {
	var dir, file, format string
	var dry bool
	cmd := &cobra.Command{
		Use:   "reconcile [--dir DIR | --config FILE] [REPOSITORY...]",
		Short: "Hold what the registry lists against the ledger, and have what is missing placed again",
		Long: `Read the list of referrers of every image that claims were placed beside, in all
repositories or the named ones. What is not listed, or listed and gone, is queued
again, whatever became of its delivery, and a running service places it: the same
manifest. Something else in its place is only reported. The service does this by
itself, see registry.reconcile_every. Exit code 15: something else is there; 3: nothing was
ever placed in a repository that is named.`,
		RunE: func(cmd *cobra.Command, repositories []string) error {
			if format != "text" && format != "json" {
				return fmt.Errorf("%w: --format %q is none of text, json", errUsage, format)
			}
			c, err := serveConfig(cmd, p, dir, file)
			if err != nil {
				return err
			}
			return reconcileOnce(cmd.Context(), p, c, repositories, format, dry)
		},
	}
	cmd.Flags().StringVar(&format, "format", "text", "text or json")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only look")
	addLocationFlags(cmd, &dir, &file)
	return cmd
}

// reconcileOnce is the command, beside the service.
func reconcileOnce(ctx context.Context, p process, c Config, repositories []string, format string, dry bool) (err error) {
	if c.Registry.Host == "" || c.Registry.Off {
		return fmt.Errorf("%w: there is no external registry; the embedded one is looked after by the service that keeps it", errConfig)
	}
	db, err := openBeside(ctx, c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	run, err := newReconciliation(ctx, c, db)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, run.close(ctx)) }()
	run.options.Repositories, run.options.DryRun, run.options.Who = repositories, dry, "scittd registry reconcile"
	out := &reconciled{Found: []reconcileFinding{}, in: map[string]bool{}}
	run.options.Found = out.add
	err = run.all(ctx, out)
	if format == "json" {
		err = errors.Join(err, printJSON(p.stdout, out))
	} else {
		err = errors.Join(err, out.print(p.stdout, dry))
	}
	if err == nil && out.alarm {
		err = fmt.Errorf("%w: the registry shows something else than what was placed", errMisbehaved)
	}
	for _, name := range repositories {
		if err == nil && !out.in[name] {
			err = fmt.Errorf("%w: the ledger knows of nothing that was placed in %s/%s\nTry:   without the host, as in: scittd registry reconcile wabbit/net-monitor", errNothing, c.registryHost(), name)
		}
	}
	return err
}
