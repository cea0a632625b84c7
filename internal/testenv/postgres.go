package testenv

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// minimum is the oldest PostgreSQL the ledger supports.
const minimum = 15

// Postgres is one throwaway cluster.
type Postgres struct {
	bin      string
	dir      string // holds data/, log and the password file; removed by the watcher
	port     int
	password string
	watcher  *watcher
	exited   chan error   // of the postmaster that runs or ran last
	created  atomic.Int64 // databases handed out
}

// shared is the test process's cluster, started by the first Database.
var shared struct {
	sync.Mutex
	pg  *Postgres
	err error
}

// Database returns the DSN of a fresh, empty database in the cluster that all
// tests of this process share; it is dropped when the test ends.
func Database(t testing.TB) string {
	t.Helper()
	shared.Lock()
	if shared.pg == nil && shared.err == nil {
		shared.pg, shared.err = Launch()
	}
	pg, err := shared.pg, shared.err
	shared.Unlock()
	fatal(t, err)
	return pg.Database(t)
}

// Stop ends the shared cluster and removes its folder. Main calls it; so may a
// TestMain of another shape.
func Stop() error {
	shared.Lock()
	defer shared.Unlock()
	pg := shared.pg
	shared.pg = nil
	if pg == nil {
		return nil
	}
	return pg.Close()
}

// StartPostgres starts a cluster of the test's own, for tests that kill it or
// change its settings ("name=value"). It is gone when the test ends.
func StartPostgres(t testing.TB, settings ...string) *Postgres {
	t.Helper()
	p, err := Launch(settings...)
	fatal(t, err)
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Errorf("stop the test's PostgreSQL: %v", err)
		}
	})
	return p
}

// DSN connects to the named database as the cluster's superuser.
func (p *Postgres) DSN(database string) string {
	return (&url.URL{
		Scheme:   "postgres",
		User:     url.UserPassword("scittd", p.password),
		Host:     p.Addr(),
		Path:     "/" + database,
		RawQuery: "sslmode=disable",
	}).String()
}

// Addr is host:port of the server.
func (p *Postgres) Addr() string { return "127.0.0.1:" + strconv.Itoa(p.port) }

// Database creates an empty database and drops it when the test ends.
func (p *Postgres) Database(t testing.TB) string {
	t.Helper()
	name, err := p.CreateDatabase()
	fatal(t, err)
	t.Cleanup(func() {
		if err := p.exec("DROP DATABASE " + name + " WITH (FORCE)"); err != nil {
			t.Logf("test environment: %v", err) // the server may be down on purpose
		}
	})
	return p.DSN(name)
}

// CreateDatabase creates an empty database, to be reached by DSN.
func (p *Postgres) CreateDatabase() (name string, err error) {
	name = "test" + strconv.FormatInt(p.created.Add(1), 10)
	return name, p.exec("CREATE DATABASE " + name)
}

// Kill ends the postmaster with SIGKILL, as a crash does, and waits until the
// server's processes are gone.
func (p *Postgres) Kill(t testing.TB) {
	t.Helper()
	pid, err := p.PID()
	fatal(t, err)
	fatal(t, syscall.Kill(pid, syscall.SIGKILL))
	<-p.exited
	// Orphaned backends hold the shared memory until they notice; a start
	// before that is refused.
	fatal(t, eventually(30*time.Second, func() error {
		if group := p.processes(); len(group) > 0 {
			return fmt.Errorf("processes %v of a killed server linger", group)
		}
		return nil
	}))
}

// Stop shuts the server down cleanly; Start brings it back.
func (p *Postgres) Stop(t testing.TB) {
	t.Helper()
	pid, err := p.PID()
	fatal(t, err)
	fatal(t, syscall.Kill(pid, syscall.SIGINT)) // "fast": no wait for clients
	<-p.exited
}

// Start starts the server again on the same port, after Kill or Stop.
func (p *Postgres) Start(t testing.TB) {
	t.Helper()
	fatal(t, p.start())
}

// PID is the postmaster's process id.
func (p *Postgres) PID() (int, error) {
	b, err := os.ReadFile(filepath.Join(p.data(), "postmaster.pid"))
	if err != nil {
		return 0, err
	}
	first, _, _ := strings.Cut(string(b), "\n")
	return strconv.Atoi(first)
}

// Dir is the folder that everything of the cluster lies in.
func (p *Postgres) Dir() string { return p.dir }

// Launch is StartPostgres for a program that is no test, such as a benchmark;
// it calls Close.
func Launch(settings ...string) (_ *Postgres, err error) {
	bin, err := postgresBinaries()
	if err != nil {
		return nil, err
	}
	dir, err := folder("scittd-postgres-")
	if err != nil {
		return nil, err
	}
	p := &Postgres{bin: bin, dir: dir, password: rand.Text()}
	log, err := os.OpenFile(p.log(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o666)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	defer log.Close()
	if cred, _ := unprivileged(); cred != nil {
		err = log.Chown(int(cred.Uid), int(cred.Gid))
		if err != nil {
			return nil, errors.Join(err, os.RemoveAll(dir))
		}
	}
	p.watcher, err = watch(log,
		`read -r _; "$1/pg_ctl" -D "$2/data" -m immediate -w stop >/dev/null 2>&1; rm -rf "$2"`, bin, dir)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w\n%s", err, tail(p.log()))
			err = errors.Join(err, p.Close())
		}
	}()
	if err := p.initdb(log, settings); err != nil {
		return nil, err
	}
	for try := 1; ; try++ {
		if p.port, err = freePort(); err != nil {
			return nil, err
		}
		if err = p.start(); err == nil || try == tries {
			return p, err
		}
	}
}

func (p *Postgres) data() string { return filepath.Join(p.dir, "data") }
func (p *Postgres) log() string  { return filepath.Join(p.dir, "log") }

// initdb makes the cluster. The new files themselves need not survive a power
// cut; what the server writes later is synced as ever.
func (p *Postgres) initdb(log *os.File, settings []string) error {
	cmd, err := command("/bin/sh", "-c",
		`umask 077; cat > "$2/password"; exec "$1/initdb" -D "$2/data" -U scittd -A scram-sha-256 --pwfile="$2/password" -E UTF8 --locale=C --no-sync --no-instructions`,
		"testenv", p.bin, p.dir)
	if err != nil {
		return err
	}
	cmd.Stdin = strings.NewReader(p.password)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("initdb: %w", err)
	}
	conf := "unix_socket_directories = ''\nlisten_addresses = '127.0.0.1'\nmax_connections = 200\n"
	for _, s := range settings {
		name, value, _ := strings.Cut(s, "=")
		conf += fmt.Sprintf("%s = '%s'\n", name, strings.ReplaceAll(value, "'", "''"))
	}
	f, err := os.OpenFile(filepath.Join(p.data(), "postgresql.auto.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(conf)
	return errors.Join(err, f.Close())
}

// start runs the postmaster as a child of the test process, which so learns of
// its end at once (a killed child of somebody else may stay a zombie, and no
// server starts while its predecessor's pid is taken).
func (p *Postgres) start() error {
	cmd, err := command(filepath.Join(p.bin, "postgres"), "-D", p.data(), "-p", strconv.Itoa(p.port))
	if err != nil {
		return err
	}
	log, err := os.OpenFile(p.log(), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan error, 1)
	p.exited = exited
	go func() {
		exited <- cmd.Wait()
		close(exited)
	}()
	return eventually(time.Minute, func() error {
		select {
		case err := <-exited:
			return errGone{fmt.Errorf("PostgreSQL does not start: %w\n%s", err, tail(p.log()))}
		default:
			return p.exec("SELECT 1")
		}
	})
}

// errGone ends waiting: what was waited for cannot happen any more.
type errGone struct{ error }

// Close stops the server, whatever state it is in, and removes the folder.
func (p *Postgres) Close() error {
	err := p.watcher.close()
	if p.exited != nil {
		<-p.exited
	}
	return err
}

func (p *Postgres) exec(sql string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, p.DSN("postgres"))
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, sql)
	return errors.Join(err, conn.Close(ctx))
}

// processes lists what runs with this cluster's data folder as its working
// directory: the postmaster and its children, also once they are orphaned.
func (p *Postgres) processes() []int {
	var pids []int
	procs, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, cwd := range procs {
		if target, err := os.Readlink(cwd); err == nil && target == p.data() {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(cwd)))
			pids = append(pids, pid)
		}
	}
	return pids
}

// postgresBinaries finds the folder with initdb, pg_ctl and postgres, newest
// version first.
func postgresBinaries() (string, error) {
	dirs, err := filepath.Glob("/usr/lib/postgresql/*/bin") // Debian keeps servers off PATH
	if err != nil {
		return "", err
	}
	if postgres, err := exec.LookPath("postgres"); err == nil {
		dirs = append(dirs, filepath.Dir(postgres))
	}
	best, newest := "", 0
	for _, dir := range dirs {
		if v := postgresVersion(dir); v > newest {
			best, newest = dir, v
		}
	}
	if newest < minimum {
		return "", fmt.Errorf("no PostgreSQL server of version %d or newer here (newest found: %d): %s", minimum, newest, installHint)
	}
	return best, nil
}

var versionText = regexp.MustCompile(`\) (\d+)`) // postgres (PostgreSQL) 15.18

// postgresVersion returns the major version of a folder that has all three
// programs, 0 otherwise.
func postgresVersion(dir string) int {
	for _, name := range []string{"initdb", "pg_ctl"} {
		if _, err := os.Stat(filepath.Join(dir, name)); errors.Is(err, fs.ErrNotExist) {
			return 0
		}
	}
	out, err := exec.Command(filepath.Join(dir, "postgres"), "--version").Output()
	if err != nil {
		return 0
	}
	m := versionText.FindSubmatch(out)
	if m == nil {
		return 0
	}
	v, _ := strconv.Atoi(string(m[1]))
	return v
}

// eventually asks until it hears nil or errGone, and returns the last error
// when the limit passes.
func eventually(limit time.Duration, ask func() error) error {
	var err error
	for deadline := time.Now().Add(limit); ; time.Sleep(10 * time.Millisecond) {
		err = ask()
		if gone := (errGone{}); err == nil || errors.As(err, &gone) || time.Now().After(deadline) {
			return err
		}
	}
}
