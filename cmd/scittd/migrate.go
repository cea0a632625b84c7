package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/scittd/scittd/ledger/postgres"
)

func migrateCommand(p process) *cobra.Command {
	return group("migrate", "Show or apply migrations of the PostgreSQL schema",
		migrateSub(p, "status", "Print the schema's version and the binary's", false),
		migrateSub(p, "up", "Apply what is missing; migrations only go forward", true),
	)
}

func migrateSub(p process, use, short string, apply bool) *cobra.Command {
	var dir, file string
	cmd := &cobra.Command{
		Use: use, Short: short, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := migrateConfig(cmd, p, dir, file)
			if err != nil {
				return err
			}
			dsn, err := c.postgresURL()
			if err != nil {
				return err
			}
			if dsn == "" {
				return fmt.Errorf("%w: no database.url: a SQLite ledger is migrated when it is opened", errConfig)
			}
			if apply {
				if err := postgres.Migrate(cmd.Context(), dsn); err != nil {
					return err
				}
			}
			have, want, err := postgres.SchemaVersion(cmd.Context(), dsn)
			if err != nil {
				return err
			}
			fmt.Fprintf(p.stdout, "schema %d, binary %d\n", have, want)
			return nil
		},
	}
	addLocationFlags(cmd, &dir, &file)
	return cmd
}

// migrateConfig loads a configuration that need not be initialised yet: the
// schema comes before the log.
func migrateConfig(cmd *cobra.Command, p process, dir, file string) (Config, error) {
	file, err := configFile(dir, file)
	if err != nil {
		return Config{}, err
	}
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) && !cmd.Flags().Changed("dir") && !cmd.Flags().Changed("config") {
		file = "" // flags and environment alone
	}
	c, err := loadConfig(file, p.env, cmd.Flags())
	if err != nil {
		return c, fmt.Errorf("%w: %w", errConfig, err)
	}
	return c, nil
}
