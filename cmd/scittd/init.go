package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"

	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/postgres"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/statement"
)

// markerName is the file that says: this folder was made by init. serve
// refuses a folder without it, so that a mistyped path never starts a new log.
const markerName = "scittd.initialised"

const configName = "scittd.yaml"

const defaultFolder = "scittd-data"

func initCommand(p process) *cobra.Command {
	var dir, file, issuer, issuerKey, policyFile string
	cmd := &cobra.Command{
		Use:   "init (--issuer URL --issuer-key PUB | --policy FILE) [--dir DIR | --config FILE]",
		Short: "Create keys and the log's first two entries: the policy and the service statement",
		Long: `Create keys and the log's first two entries: the registration policy and the
service statement. Nothing that exists is overwritten; a log is initialised once.
What was interrupted is finished by running it again.

With --dir a folder is made that serve can run from: keys, a policy file, a
configuration, the ledger file. With --config the settings come from that file
(PostgreSQL, key files in other places).`,
		Example: `  scittd init --dir /var/lib/scittd --url https://scitt.example --issuer https://wabbit.example --issuer-key wabbit.pub
  scittd init --config /etc/scittd/scittd.yaml --policy policy.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			byPolicy, byIssuer := policyFile != "", issuer != "" && issuerKey != ""
			if byPolicy == byIssuer || !byIssuer && issuer+issuerKey != "" {
				return fmt.Errorf("%w: init needs to know who may register: --issuer URL with --issuer-key PUB, or --policy FILE\nTry:   scittd init --issuer https://wabbit.example --issuer-key wabbit.pub", errUsage)
			}
			if file != "" && dir != "" {
				return fmt.Errorf("%w: --dir and --config exclude each other", errUsage)
			}
			config, err := initConfig(cmd, p, dir, file)
			if err != nil {
				return err
			}
			result, err := initialise(cmd.Context(), config, initPolicy{file: policyFile, issuer: issuer, issuerKey: issuerKey}, file == "")
			if err != nil {
				return err
			}
			result.print(p, config, file)
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&dir, "dir", "", "folder to make and run from (default ./scittd-data unless --config is given)")
	flags.StringVar(&file, "config", "", "configuration file to initialise from")
	flags.StringVar(&issuer, "issuer", "", "iss of the first publisher the policy admits")
	flags.StringVar(&issuerKey, "issuer-key", "", "its public key: PEM or COSE_Key")
	flags.StringVar(&policyFile, "policy", "", "registration policy, YAML, instead of --issuer")
	addConfigFlags(flags)
	return cmd
}

// initConfig loads the configuration to initialise; for --dir it starts from
// defaults.
func initConfig(cmd *cobra.Command, p process, dir, file string) (Config, error) {
	c, err := loadConfig(file, p.env, cmd.Flags())
	if err != nil {
		return c, fmt.Errorf("%w: %w", errConfig, err)
	}
	if file != "" {
		return c, nil
	}
	if c.Data.Dir != "" {
		return c, fmt.Errorf("%w: --dir is where init makes data and configuration: with data.dir elsewhere, write a configuration and give --config", errUsage)
	}
	if dir == "" {
		dir = defaultFolder
	}
	if c.Data.Dir, err = filepath.Abs(dir); err != nil {
		return c, err
	}
	// What is written here must mean the same to a serve started elsewhere.
	for _, s := range settings(&c) {
		if text := s.value.String(); s.kind == "path" && text != "" {
			if text, err = filepath.Abs(text); err != nil {
				return c, err
			}
			s.value.SetString(text)
		}
	}
	return c, c.complete()
}

// initPolicy says where the first policy comes from.
type initPolicy struct {
	file              string
	issuer, issuerKey string
}

// initialised is what init reports: public facts only.
type initialised struct {
	policyEntry, serviceEntry statement.ID
	receiptKey, checkpointKey string
	threshold                 int // of the policy, from the next one on
}

// initialise makes keys, policy and configuration where they are missing and
// commits leaves 0 and 1. The marker is written last: until then serve refuses
// the folder and init can be run again.
func initialise(ctx context.Context, c Config, from initPolicy, writeConfig bool) (initialised, error) {
	var done initialised
	marker := filepath.Join(c.Data.Dir, markerName)
	if _, err := os.Stat(marker); err == nil {
		return done, fmt.Errorf("%w: %s is initialised already: serve it, or name another folder", errConfig, c.Data.Dir)
	}
	if from.file != "" {
		if err := checkOperator(from.file, c.Keys.Operator); err != nil {
			return done, err
		}
	}
	for _, dir := range []string{c.Data.Dir, filepath.Dir(c.Keys.Receipt), filepath.Dir(c.Keys.Checkpoint), filepath.Dir(c.Keys.Operator)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return done, err
		}
	}
	if file := c.memoryFile(); file != "" {
		if err := checkMemoryFile(file); err != nil {
			return done, err
		}
	}
	receiptKey, err := keyFile(c.Keys.Receipt, newECKey)
	if err != nil {
		return done, err
	}
	checkpointKey, err := keyFile(c.Keys.Checkpoint, newEd25519Key)
	if err != nil {
		return done, err
	}
	operatorKey, err := keyFile(c.Keys.Operator, newECKey)
	if err != nil {
		return done, err
	}
	policyFile := from.file
	if policyFile == "" {
		if policyFile, err = writePolicy(c, from, operatorKey.Public()); err != nil {
			return done, err
		}
	}
	first, err := policy.ReadYAML(policyFile)
	if err != nil {
		return done, fmt.Errorf("%w: %w", errConfig, err)
	}
	issuer, err := receipts.NewIssuer(receiptKey, c.URL, c.Origin)
	if err != nil {
		return done, err
	}
	genesis, vkey, err := makeGenesis(c, first, operatorKey, issuer, checkpointKey)
	if err != nil {
		return done, err
	}
	if err := commitGenesis(ctx, c, issuer, genesis); err != nil {
		return done, err
	}
	if writeConfig {
		if err := writeConfigFile(c); err != nil {
			return done, err
		}
	}
	done = initialised{
		policyEntry: genesis.Policy.ID(), serviceEntry: genesis.Service.ID(),
		receiptKey: base64.RawURLEncoding.EncodeToString(issuer.KeyID()), checkpointKey: vkey,
		threshold: first.Threshold,
	}
	return done, writeNew(marker, []byte(c.URL+"\n"), 0o600)
}

// checkOperator refuses a first policy that the key in keyFile could not sign, before
// anything is written.
func checkOperator(policyFile, keyFile string) error {
	first, err := policy.ReadYAML(policyFile)
	if err != nil {
		return fmt.Errorf("%w: %w", errConfig, err)
	}
	listed := first.OperatorKeyIDs()
	names := make([]string, len(listed))
	for i, kid := range listed {
		names[i] = kid.String()
	}
	refuse := func(found string) error {
		return fmt.Errorf("%w: the policy lists operator %s, and %s; give its private half with --keys-operator, or list your own key in %s\nTry:   scittd init --policy %[4]s --keys-operator operator.pem",
			errConfig, strings.Join(names, " and "), found, policyFile)
	}
	pem, err := readSecret(keyFile)
	if errors.Is(err, fs.ErrNotExist) {
		return refuse("there is no key " + keyFile)
	}
	if err != nil {
		return fmt.Errorf("operator key: %w", err)
	}
	key, err := cose.ParsePrivatePEM(pem)
	if err != nil {
		return fmt.Errorf("%w: operator key %s: %w", errConfig, keyFile, err)
	}
	thumbprint, err := cose.Thumbprint(key.Public())
	if err != nil {
		return fmt.Errorf("%w: operator key %s: %w", errConfig, keyFile, err)
	}
	if !slices.ContainsFunc(listed, func(kid policy.KeyID) bool { return string(kid) == string(thumbprint[:]) }) {
		return refuse(fmt.Sprintf("%s is %s", keyFile, policy.KeyID(thumbprint[:])))
	}
	return nil
}

// makeGenesis signs leaf 0, the policy, and leaf 1, the service statement.
func makeGenesis(c Config, first *policy.Policy, operator crypto.Signer, issuer *receipts.Issuer, checkpoint crypto.Signer) (ledger.Genesis, string, error) {
	var g ledger.Genesis
	text, err := first.JSON()
	if err != nil {
		return g, "", err
	}
	g.Policy, err = signOperator(operator, c.URL, policy.StatementSubject, policy.MediaType, text)
	if err != nil {
		return g, "", err
	}
	key, err := cose.Key{ID: issuer.KeyID(), Alg: cose.ES256, Public: issuer.Public()}.Marshal()
	if err != nil {
		return g, "", err
	}
	vkey, err := note.NewEd25519VerifierKey(c.Origin, checkpoint.Public().(ed25519.PublicKey))
	if err != nil {
		return g, "", err
	}
	announcement, err := json.Marshal(ledger.Service{
		Version: 1, URL: c.URL, Origin: c.Origin, LeafRule: ledger.LeafRule,
		ReceiptKeys: [][]byte{key}, CheckpointKeys: []string{vkey},
	})
	if err != nil {
		return g, "", err
	}
	g.Service, err = signOperator(operator, c.URL, policy.ServiceSubject, policy.ServiceMediaType, announcement)
	return g, vkey, err
}

// signOperator signs one of the service's own statements.
func signOperator(key crypto.Signer, serviceURL, sub, mediaType string, payload []byte) (*statement.Statement, error) {
	signed, err := statement.Sign(statement.Template{
		Issuer: serviceURL, Subject: serviceURL + sub, ContentType: mediaType, Payload: payload,
	}, key)
	if err != nil {
		return nil, fmt.Errorf("sign %s%s: %w", serviceURL, sub, err)
	}
	return statement.Parse(signed)
}

func commitGenesis(ctx context.Context, c Config, issuer *receipts.Issuer, g ledger.Genesis) error {
	dsn, err := c.postgresURL()
	if err != nil {
		return err
	}
	if dsn != "" { // init runs once, with rights to create the schema
		if err := postgres.Migrate(ctx, dsn); err != nil {
			return err
		}
	}
	db, err := openDatabase(ctx, c)
	if err != nil {
		return err
	}
	err = ledger.Init(ctx, db, issuer, g, time.Now)
	if errors.Is(err, ledger.ErrConflict) {
		err = continued(ctx, db, g)
	}
	return errors.Join(err, db.Close())
}

// continued accepts a database that begins with this very genesis: the init
// that an interruption kept from its end.
func continued(ctx context.Context, db database, g ledger.Genesis) error {
	first, err := db.Leaves(ctx, 0, 2)
	if err != nil {
		return err
	}
	if !slices.Equal(first, []statement.ID{g.Policy.ID(), g.Service.ID()}) {
		return fmt.Errorf("%w: the database holds another log already: name an empty database, or serve that log with its own keys", errConfig)
	}
	return nil
}

// keyFile reads the private key in file, or makes one there when there is none.
func keyFile(file string, generate func() (crypto.Signer, error)) (crypto.Signer, error) {
	pem, err := readSecret(file)
	if err == nil {
		return cose.ParsePrivatePEM(pem)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	key, err := generate()
	if err != nil {
		return nil, err
	}
	if pem, err = cose.MarshalPrivatePEM(key); err != nil {
		return nil, err
	}
	return key, writeNew(file, pem, 0o600)
}

func newECKey() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

func newEd25519Key() (crypto.Signer, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	return key, err
}

// writePolicy writes the policy of a log with one publisher, for people to
// read and to grow from.
func writePolicy(c Config, from initPolicy, operator crypto.PublicKey) (string, error) {
	pem, err := cose.MarshalPublicPEM(operator)
	if err != nil {
		return "", err
	}
	if err := writeOnce(filepath.Join(c.Data.Dir, "operator.pub"), pem, 0o644); err != nil {
		return "", err
	}
	publisher, err := os.ReadFile(from.issuerKey)
	if err != nil {
		return "", fmt.Errorf("%w: --issuer-key: %w", errConfig, err)
	}
	if _, err := cose.ParsePublic(publisher); err != nil {
		return "", fmt.Errorf("%w: --issuer-key %s: %w", errConfig, from.issuerKey, err)
	}
	if err := writeOnce(filepath.Join(c.Data.Dir, "publisher.pub"), publisher, 0o644); err != nil {
		return "", err
	}
	issuer, err := json.Marshal(from.issuer) // a JSON string is a YAML string
	if err != nil {
		return "", err
	}
	file := filepath.Join(c.Data.Dir, "policy.yaml")
	return file, writeOnce(file, fmt.Appendf(nil, `# Who may register what. Publish changes with: scittd policy publish policy.yaml
version: 1
operators:
  - key: operator.pub
issuers:
  - iss: %s
    key: publisher.pub
    repositories: ["*"]
subjects: [intoto, sub]
visibility: public
`, issuer), 0o644)
}

// writeConfigFile writes what differs from the defaults, each with its manual.
// loadConfig reads the same Config back.
func writeConfigFile(c Config) error {
	var text strings.Builder
	text.WriteString("# Configuration of scittd; scittd serve --help lists every setting.\n")
	standard := defaults()
	standard.Data.Dir = c.Data.Dir
	if err := standard.complete(); err != nil {
		return err
	}
	usual := settings(&standard)
	section := ""
	for i, s := range settings(&c) {
		fixed := s.path == "url" || s.path == "origin" || s.path == "listen"
		if !fixed && reflect.DeepEqual(s.value.Interface(), usual[i].value.Interface()) {
			continue
		}
		key, indent := s.path, ""
		if group, leaf, nested := strings.Cut(s.path, "."); nested {
			if group != section {
				section = group
				fmt.Fprintf(&text, "%s:\n", group)
			}
			key, indent = leaf, "  "
		}
		value := s.value.Interface()
		if d, ok := value.(time.Duration); ok {
			value = d.String()
		}
		flow, err := json.Marshal(value) // which is YAML too
		if err != nil {
			return err
		}
		fmt.Fprintf(&text, "%s# %s\n%s%s: %s\n", indent, s.help, indent, key, flow)
	}
	return writeOnce(filepath.Join(c.Data.Dir, configName), []byte(text.String()), 0o600)
}

func (d initialised) print(p process, c Config, file string) {
	serve := "scittd serve --config " + file
	if file == "" {
		serve = "scittd serve --dir " + c.Data.Dir
	}
	fmt.Fprintf(p.stdout, `Initialised  %s
Policy       leaf 0  entry %s
Service      leaf 1  entry %s
Receipt key  %s  (pin this in your clients)
Checkpoint   %s
Operator     %s  (needed only to publish policies; may be kept offline)
Next:        %s
`, c.URL, d.policyEntry, d.serviceEntry, d.receiptKey, d.checkpointKey, c.Keys.Operator, serve)
	if d.threshold > 1 {
		fmt.Fprintf(p.stdout, "Threshold    this first policy is in force with one signature; every later one takes %d operators\n", d.threshold)
	}
}
