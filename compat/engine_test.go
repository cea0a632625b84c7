package compat

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"maps"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/ledgertest"
	"github.com/scittd/scittd/ledger/postgres"
)

// engine is the database that is looked at.
type engine struct {
	dsn     string
	config  *pgx.ConnConfig
	address string      // of the server that takes writes
	tls     *tls.Config // nil: it is spoken to in the clear
}

// patience is how long setting up and dropping may take.
const patience = time.Minute

// lookAt connects once and writes the heading of the table.
func lookAt(dsn string) (*engine, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	portable := config.RuntimeParams["profile"] == "portable"
	delete(config.RuntimeParams, "profile") // ours, no server's
	if config.ValidateConnect == nil {
		config.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	c, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	defer c.Close(ctx)
	e := &engine{dsn: dsn, config: config, address: c.PgConn().Conn().RemoteAddr().String()}
	if secured, ok := c.PgConn().Conn().(*tls.Conn); ok {
		e.tls = config.TLSConfig.Clone()
		e.tls.ServerName = secured.ConnectionState().ServerName
	}
	var version, isolation string
	if err := c.QueryRow(ctx, `SELECT version()`).Scan(&version); err != nil {
		return nil, err
	}
	if err := c.QueryRow(ctx, `SHOW transaction_isolation`).Scan(&isolation); err != nil {
		return nil, err
	}
	if portable {
		isolation = "serializable, portable profile"
	}
	engine, _, _ := strings.Cut(version, " on ")
	table.about(engine, "`"+version+"`", "isolation "+isolation+" unless the row says else")
	return e, nil
}

// exec runs one statement as given by the DSN.
func (e *engine) exec(sql string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := pgx.ConnectConfig(ctx, e.config)
	if err != nil {
		return err
	}
	_, err = c.Exec(ctx, sql)
	return errors.Join(err, c.Close(ctx))
}

// schema makes an empty schema and drops it when the test ends.
func (e *engine) schema(t testing.TB) string {
	t.Helper()
	name := "scittd_compat_" + strings.ToLower(rand.Text())
	if err := e.exec("CREATE SCHEMA " + name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.exec("DROP SCHEMA " + name + " CASCADE"); err != nil {
			t.Errorf("left behind: %v", err)
		}
	})
	return name
}

// direct is the DSN of a schema.
func (e *engine) direct(schema string) string {
	switch {
	case !strings.Contains(e.dsn, "://"):
		return e.dsn + " search_path=" + schema
	case strings.Contains(e.dsn, "?"):
		return e.dsn + "&search_path=" + schema
	}
	return e.dsn + "?search_path=" + schema
}

// through is the DSN of a schema by way of a proxy; more are further name=value.
func (e *engine) through(proxy net.Addr, schema string, more ...string) string {
	params := maps.Clone(e.config.RuntimeParams)
	params["search_path"], params["sslmode"] = schema, "disable"
	if strings.Contains(e.dsn, "profile=portable") {
		params["profile"] = "portable"
	}
	for _, p := range more {
		name, value, _ := strings.Cut(p, "=")
		params[name] = value
	}
	query := url.Values{}
	for name, value := range params {
		query.Set(name, value)
	}
	return (&url.URL{
		Scheme: "postgres", User: url.UserPassword(e.config.User, e.config.Password),
		Host: proxy.String(), Path: "/" + e.config.Database, RawQuery: query.Encode(),
	}).String()
}

// dial connects a proxy to the server, by TLS if the DSN came to that.
func (e *engine) dial() (net.Conn, error) {
	conn, err := net.DialTimeout("tcp", e.address, 10*time.Second)
	if err != nil || e.tls == nil {
		return conn, err
	}
	answer := make([]byte, 1)
	_, err = conn.Write([]byte{0, 0, 0, 8, 4, 210, 22, 47}) // SSLRequest
	if err == nil {
		_, err = conn.Read(answer)
	}
	if err == nil && answer[0] != 'S' {
		err = errors.New("the server takes no TLS any more")
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return tls.Client(conn, e.tls), nil
}

// site is a log on the engine and the people around it.
type site struct {
	dsn       string // direct
	schema    string
	operator  *ledgertest.Operator
	publisher *ledgertest.Publisher
}

func newSite(t testing.TB) *site {
	t.Helper()
	s := &site{schema: theEngine.schema(t), operator: ledgertest.NewOperator(t), publisher: ledgertest.NewPublisher(t, "https://wabbit.example")}
	s.dsn = theEngine.direct(s.schema)
	if err := postgres.Migrate(t.Context(), s.dsn); err != nil {
		t.Fatal(err)
	}
	s.operator.Init(t, open(t, s.dsn), s.publisher)
	return s
}

func open(t testing.TB, dsn string) *postgres.Store {
	t.Helper()
	store, err := postgres.Open(t.Context(), dsn, postgres.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	return store
}

// replica opens the log as one scittd process does.
func (s *site) replica(t testing.TB, dsn string) *ledger.Ledger {
	t.Helper()
	l, err := ledger.Open(t.Context(), open(t, dsn), ledger.Options{Issuer: s.operator.Issuer(t), Registry: "registry.example"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return l
}

// sound recomputes the whole log and returns its size.
func (s *site) sound(t testing.TB) uint64 {
	t.Helper()
	store := open(t, s.dsn)
	if err := ledgertest.CheckLog(t.Context(), store, s.operator.Receipt.Public()); err != nil {
		t.Fatalf("the log is not sound: %v", err)
	}
	h, err := store.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return h.Size
}
