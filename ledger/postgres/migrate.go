package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	"github.com/scittd/scittd/migrations"
)

// Migrate brings the schema to this binary's version. Processes that start at
// the same time wait for one another. It refuses a schema that is newer than
// the binary: migrations only go forward.
func Migrate(ctx context.Context, dsn string) error {
	have, want, err := SchemaVersion(ctx, dsn)
	if err != nil {
		return err
	}
	if have >= want {
		return schemaFits(have, want)
	}
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return fmt.Errorf("migrate PostgreSQL ledger: %w", err)
	}
	portable, err := profileOf(config)
	if err != nil {
		return fmt.Errorf("migrate PostgreSQL ledger: %w", err)
	}
	files, err := fs.Sub(migrations.FS, "postgres")
	if err != nil {
		return err
	}
	var locking goose.ProviderOption
	if portable {
		locker, err := lock.NewPostgresTableLocker(lock.WithTableLockTimeout(time.Second, 300))
		if err != nil {
			return err
		}
		files, locking = untuned{files}, goose.WithLocker(locker)
	} else {
		locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 300)) // every second, 5 minutes
		if err != nil {
			return err
		}
		locking = goose.WithSessionLocker(locker)
	}
	db := stdlib.OpenDB(*config)
	provider, err := goose.NewProvider(goose.DialectPostgres, db, files, locking)
	if err != nil {
		return errors.Join(fmt.Errorf("migrate PostgreSQL ledger: %w", err), db.Close())
	}
	err = again(ctx, func() error { // what was applied is recorded in the same transaction
		_, err := provider.Up(ctx)
		return err
	})
	if err = errors.Join(err, provider.Close()); err != nil {
		return fmt.Errorf("migrate PostgreSQL ledger: %w", err)
	}
	return nil
}

// SchemaVersion tells the version of the schema that dsn leads to, 0 for an
// empty one, and the version that this binary works with.
func SchemaVersion(ctx context.Context, dsn string) (have, want int64, err error) {
	config, err := pgx.ParseConfig(dsn)
	if err == nil {
		_, err = profileOf(config)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("read schema version: %w", err)
	}
	err = again(ctx, func() error {
		conn, err := pgx.ConnectConfig(ctx, config)
		if err != nil {
			return fmt.Errorf("read schema version: %w", err)
		}
		have, want, err = schemaVersion(ctx, conn)
		return errors.Join(err, conn.Close(ctx))
	})
	return have, want, err
}

func schemaVersion(ctx context.Context, c *pgx.Conn) (have, want int64, err error) {
	if want, err = newestMigration(); err != nil {
		return 0, 0, err
	}
	// goose keeps one row per migration applied; ours are never taken back.
	err = c.QueryRow(ctx, `SELECT coalesce(max(version_id), 0) FROM goose_db_version WHERE is_applied`).Scan(&have)
	if hasState(err, undefinedTable) {
		return 0, want, nil
	}
	if err != nil {
		return 0, 0, fmt.Errorf("read schema version: %w", err)
	}
	return have, want, nil
}

func checkSchema(ctx context.Context, c *pgx.Conn) error {
	have, want, err := schemaVersion(ctx, c)
	if err != nil {
		return err
	}
	return schemaFits(have, want)
}

func schemaFits(have, want int64) error {
	switch {
	case have > want:
		return fmt.Errorf("database schema is at version %d, newer than this binary's %d: run the newer scittd", have, want)
	case have < want:
		return fmt.Errorf("database schema is at version %d, this binary needs %d: run scittd migrate up", have, want)
	}
	return nil
}

// newestMigration reads the version from the last file's name: 00001_log.sql.
func newestMigration() (int64, error) {
	files, err := fs.Glob(migrations.FS, "postgres/*.sql")
	if err != nil || len(files) == 0 {
		return 0, fmt.Errorf("no migrations in this binary: %w", err)
	}
	name := strings.TrimPrefix(files[len(files)-1], "postgres/")
	number, _, _ := strings.Cut(name, "_")
	return strconv.ParseInt(number, 10, 64)
}
