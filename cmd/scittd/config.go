package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v4"

	"github.com/scittd/scittd/api"
	"github.com/scittd/scittd/internal/fetch"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/statement"
	"github.com/scittd/scittd/storage"
)

// Config is scittd's whole configuration. The help tags are its manual: they
// are printed by --help and written into the file that init makes. Every leaf
// can also be set by SCITTD_SECTION_KEY and by --section-key; a flag wins over
// the environment, the environment over the file. A relative path (kind:"path")
// starts at the folder of the file it stands in; in flags and the environment,
// at the working directory.
type Config struct {
	URL            string        `yaml:"url" help:"public URL of the service: iss of every receipt; fixed by init (default: http:// and the listen address)"`
	Origin         string        `yaml:"origin" help:"origin of the log: sub of every receipt; fixed by init (default: the URL without its scheme, then /log)"`
	Listen         string        `yaml:"listen" help:"address of the public listener"`
	OpsListen      string        `yaml:"ops_listen" help:"address of a listener for health checks and profiles; empty: none"`
	InsecureListen bool          `yaml:"insecure_listen" help:"allow plain HTTP on an address that is not loopback (behind a proxy that ends TLS)"`
	ReadOnly       bool          `yaml:"read_only" help:"serve reads and receipts beside replicas that write; no key is read, writes are answered 503, nothing is placed"`
	AllowAnyIssuer bool          `yaml:"allow_any_issuer" help:"start although the policy in force admits any issuer"`
	RegisterWait   time.Duration `yaml:"register_wait" help:"how long a registration waits for its commit before it is answered 202"`
	Cadence        time.Duration `yaml:"checkpoint_every" help:"how often a checkpoint is published at most, and then only when the log has grown"`
	Scrub          time.Duration `yaml:"scrub_every" help:"how long a round of the scrubber takes at least, which compares everything stored with what was signed; 0: none"`
	TLS            TLSConfig     `yaml:"tls"`
	Data           DataConfig    `yaml:"data"`
	Database       DBConfig      `yaml:"database"`
	Registry       RegistryConf  `yaml:"registry"`
	Keys           KeyConfig     `yaml:"keys"`
	Memory         MemoryConfig  `yaml:"memory"`
	Lookup         LookupConfig  `yaml:"lookup"`
	Limits         LimitConfig   `yaml:"limits"`
	Log            LogConfig     `yaml:"log"`

	EvidenceDownload string `yaml:"evidence_download" help:"what GET /v1/entries/{id}/evidence does: redirect, to the registry, which judges the caller itself; stream: whoever sees a claim has its evidence from here, with this service's own credentials"`
}

// TLSConfig names the server certificate.
type TLSConfig struct {
	Cert string `yaml:"cert" kind:"path" help:"certificate chain, PEM"`
	Key  string `yaml:"key" kind:"path" help:"its private key, PEM, 0600"`
}

// DataConfig is where embedded parts keep their files.
type DataConfig struct {
	Dir string `yaml:"dir" kind:"path" help:"folder of the ledger file and the embedded registry (default: the folder of the configuration)"`
}

// DBConfig chooses PostgreSQL; without it the ledger is a SQLite file.
type DBConfig struct {
	URL        string `yaml:"url" help:"PostgreSQL connection URL, without password; of several hosts the primary is taken; profile=portable is for engines that only speak PostgreSQL; empty: SQLite in data.dir"`
	URLFile    string `yaml:"url_file" kind:"path" help:"file that holds the connection URL with its password, 0600"`
	Durability string `yaml:"durability" help:"postgres: refuse a server with fsync or full_page_writes off; managed: trust the provider"`
	Migrate    string `yaml:"migrate" help:"at start: auto applies migrations, check refuses an old schema, off does neither"`
}

// RegistryConf says which registry claims are placed in, and where scittd
// stands: beside it, in front of it, or behind a proxy that sends scittd its
// own paths of it.
type RegistryConf struct {
	Host      string `yaml:"host" help:"external registry host[:port]; empty: the embedded registry, on the same port at /v2"`
	Off       bool   `yaml:"off" help:"place nothing and serve no registry: claims are only in the ledger"`
	PlainHTTP bool   `yaml:"plain_http" help:"speak plain HTTP to the external registry"`
	CAFile    string `yaml:"ca_file" kind:"path" help:"CA certificates of the external registry, PEM, instead of the system's"`
	Config    string `yaml:"config" kind:"path" help:"docker config with its credentials (default: ~/.docker/config.json and its helpers)"`
	Quota     int64  `yaml:"quota" help:"embedded: bytes that clients may fill, beyond which pushes are answered 403 DENIED; what the service places counts, but is not held up; 0: no quota"`
	FreeSpace int64  `yaml:"free_space" help:"embedded: bytes that its volume must have left, below which every push is answered 507"`
	Archive   string `yaml:"archive" help:"repository of the registry that keeps the transparency artifact of everything placed once more, without a subject and tagged with the entry's ID: for registries that delete what refers to an image together with it; empty: none"`

	Front         string   `yaml:"front" help:"where this stands with an external registry. beside: clients use the registry itself, and tokens of this service for /v2/<name>/_scitt. path-routed: a proxy sends /v2/_oci/ext/, /v2/_scitt/ and /v2/<name>/_scitt/ here and the rest to the registry. in-front: all of /v2 comes here and is passed on. With the last two the registry decides by its own credentials who may use a repository's _scitt"`
	PublicHost    string   `yaml:"public_host" help:"host[:port] that images are named by (default: beside the registry, its host; otherwise that of url)"`
	HostHeader    string   `yaml:"host_header" help:"Host that the registry is sent: client, the one that the client used; or registry, its own, which registries need that share an address with others"`
	BlobRedirects string   `yaml:"blob_redirects" help:"in-front: pass redirects to a blob store on to clients, or follow them here for clients that cannot reach it; credentials never go there"`
	TokenHosts    []string `yaml:"token_hosts" help:"hosts that may see the registry's credentials besides itself: of its token service, if that is elsewhere"`

	Profiles  []string      `yaml:"profiles" help:"what is particular about a registry, a rule each, such as: registry.example like=harbor referrers=tags. Keys: like (acr, harbor, zot, distribution, ghcr, ecr, gitlab, quay, dockerhub, google, artifactory, digitalocean, alibaba, cloudsmith), referrers (auto, api, tags, off), config_media_type, index_platform, page_size, max_annotations, max_manifest, chunk_size, delete_scope"`
	Reconcile time.Duration `yaml:"reconcile_every" help:"how often what the registry lists is held against the ledger, and what is missing is placed again; 0: never"`

	PushThrough []string `yaml:"push_through" help:"what becomes of statements that clients push as referrers through this service (artifactType application/scitt-statement+cose), as MODE:PATTERN, the first that covers a repository decides: observe registers them, and notes those that the policy refuses; gate denies the push of those; off treats them like any other manifest. A pattern covers a repository and everything below, and * stands for any part of a segment (default observe:*)"`
	Foreign     []string `yaml:"foreign" help:"what becomes of transparency artifacts that clients push, most likely copies from elsewhere, as MODE:PATTERN: pass stores them, deny does not, register stores them and registers the statement in them here, too (default pass:*)"`
}

// KeyConfig names key files; each key has one purpose.
type KeyConfig struct {
	Receipt    string `yaml:"receipt" kind:"path" help:"signs receipts: ES256, PEM, 0600"`
	Checkpoint string `yaml:"checkpoint" kind:"path" help:"signs checkpoints: Ed25519, PEM, 0600"`
	Operator   string `yaml:"operator" kind:"path" help:"signs policies: ES256, PEM, 0600; used by init and policy publish only, may live elsewhere"`
}

// MemoryConfig says where the newest head is remembered outside the database,
// so that an old copy of the database is noticed.
type MemoryConfig struct {
	File       string `yaml:"file" kind:"path" help:"file that remembers the newest head, so that an old copy of the database is refused: best on another volume, never in its backups (default with SQLite: head.json beside the receipt key)"`
	Sync       bool   `yaml:"sync" help:"acknowledge no registration before memory.file has its head: needed where failover may lose a commit (asynchronous replica)"`
	Repository string `yaml:"repository" help:"host/name of a repository whose tag scitt-log remembers the newest head, for all replicas"`
}

// LookupConfig bounds where the service asks for what a policy names: DID
// documents (did:web) and key sets. Nothing else is ever asked for.
type LookupConfig struct {
	Hosts        []string      `yaml:"hosts" help:"host[:port] list that may be asked for DID documents and key sets of issuers; empty: any host that the policy names, on port 443, if all its addresses are public"`
	PrivateHosts []string      `yaml:"private_hosts" help:"host[:port] list that may be asked, too, and may have addresses that are not public"`
	CAFile       string        `yaml:"ca_file" kind:"path" help:"CA certificates of such hosts, PEM, instead of the system's"`
	Timeout      time.Duration `yaml:"timeout" help:"how long one of them may take in all; then the registration is answered 503"`
	Size         int64         `yaml:"size" help:"bytes of one document, at most 256 KiB"`
	MaxAge       time.Duration `yaml:"max_age" help:"how long a document is used without asking again: so long is a key still good that its issuer has withdrawn. A new key is found at once"`
}

// LimitConfig bounds what callers may use; 0 switches a rate off.
type LimitConfig struct {
	Statement      int64    `yaml:"statement" help:"bytes of one Signed Statement, at most 1 MiB"`
	Evidence       int64    `yaml:"evidence" help:"bytes of one staged piece of evidence"`
	StagingQuota   int64    `yaml:"staging_quota" help:"bytes of all staged evidence"`
	CallerRate     float64  `yaml:"caller_rate" help:"requests a second for one token; each statement of a batch counts as one"`
	CallerBurst    int      `yaml:"caller_burst" help:"requests at once for one token"`
	AddressRate    float64  `yaml:"address_rate" help:"requests a second for one address"`
	AddressBurst   int      `yaml:"address_burst" help:"requests at once for one address"`
	PushRate       float64  `yaml:"push_rate" help:"requests a second of one token that write to the registry; an image has dozens"`
	PushBurst      int      `yaml:"push_burst" help:"such requests at once"`
	PullRate       float64  `yaml:"pull_rate" help:"requests a second of one address that read from the embedded registry, 0: any number; a cluster may come from one"`
	PullBurst      int      `yaml:"pull_burst" help:"such requests at once"`
	InFlight       int      `yaml:"in_flight" help:"requests served at once, batches at most half of them; beyond, 503"`
	TrustedProxies []string `yaml:"trusted_proxies" help:"address ranges whose X-Forwarded-For is believed"`
}

// LogConfig is about the service's own log lines, on standard error, and about
// the public log.
type LogConfig struct {
	Level   string `yaml:"level" help:"of log lines: debug, info, warn or error"`
	Format  string `yaml:"format" help:"of log lines: text or json"`
	Publish string `yaml:"publish" help:"URL of a bucket that the public log is copied to, such as file:///srv/log: checkpoint, tiles, public statements; a file server over it is all that auditors need; empty: none"`

	Witnesses string `yaml:"witnesses" kind:"path" help:"C2SP tlog-policy: who cosigns checkpoints, where they are asked, and whose cosignatures /log/checkpoint must have; empty: nobody's"`
}

func defaults() Config {
	open := api.DefaultLimits()
	return Config{
		Listen: "127.0.0.1:8080", RegisterWait: 10 * time.Second, Cadence: time.Second, Scrub: time.Hour, EvidenceDownload: redirected,
		Database: DBConfig{Durability: "postgres", Migrate: "check"},
		Registry: RegistryConf{Reconcile: 24 * time.Hour, Front: beside, HostHeader: "client", BlobRedirects: "pass", FreeSpace: 512 << 20},
		Limits: LimitConfig{
			Statement: open.Statement, Evidence: open.Evidence, StagingQuota: open.StagingQuota,
			CallerRate: open.CallerRate, CallerBurst: open.CallerBurst,
			AddressRate: open.AddressRate, AddressBurst: open.AddressBurst, InFlight: open.InFlight,
			PushRate: open.PushRate, PushBurst: open.PushBurst, PullRate: open.PullRate, PullBurst: open.PullBurst,
		},
		Lookup: LookupConfig{Timeout: fetch.DefaultTimeout, Size: fetch.DefaultSize, MaxAge: fetch.DefaultMaxAge},
		Log:    LogConfig{Level: "info", Format: "text"},
	}
}

// setting is one leaf of Config.
type setting struct {
	path  string // "database.url"
	help  string
	kind  string // "path", or ""
	value reflect.Value
}

func (s setting) env() string {
	return "SCITTD_" + strings.ToUpper(strings.ReplaceAll(s.path, ".", "_"))
}
func (s setting) flag() string { return strings.NewReplacer(".", "-", "_", "-").Replace(s.path) }

// settings are the leaves of c, in order.
func settings(c *Config) []setting {
	var all []setting
	var walk func(prefix string, v reflect.Value)
	walk = func(prefix string, v reflect.Value) {
		for i := range v.NumField() {
			field := v.Type().Field(i)
			path := prefix + field.Tag.Get("yaml")
			if field.Type.Kind() == reflect.Struct {
				walk(path+".", v.Field(i))
				continue
			}
			all = append(all, setting{path, field.Tag.Get("help"), field.Tag.Get("kind"), v.Field(i)})
		}
	}
	walk("", reflect.ValueOf(c).Elem())
	return all
}

// set parses text into the setting.
func (s setting) set(text string) error {
	var err error
	switch v := s.value.Addr().Interface().(type) {
	case *string:
		*v = text
	case *bool:
		*v, err = strconv.ParseBool(text)
	case *int:
		*v, err = strconv.Atoi(text)
	case *int64:
		*v, err = strconv.ParseInt(text, 10, 64)
	case *float64:
		*v, err = strconv.ParseFloat(text, 64)
	case *time.Duration:
		*v, err = time.ParseDuration(text)
	case *[]string:
		*v = strings.FieldsFunc(text, func(r rune) bool { return r == ',' })
	default:
		return fmt.Errorf("setting %s has no text form", s.path)
	}
	if err != nil {
		return fmt.Errorf("%s: %q is not a %s", s.path, text, s.value.Type())
	}
	return nil
}

// addConfigFlags gives fs one flag for every setting.
func addConfigFlags(fs *pflag.FlagSet) {
	c := defaults()
	for _, s := range settings(&c) {
		help := s.help
		if !s.value.IsZero() {
			help = fmt.Sprintf("%s (default %v)", help, s.value)
		}
		help += "; " + s.path + " in the file" // where dots are levels of YAML
		fs.String(s.flag(), "", help)
		if s.value.Kind() == reflect.Bool {
			fs.Lookup(s.flag()).NoOptDefVal = "true"
		}
	}
}

// loadConfig reads file (unless ""), then the environment, then flags.
func loadConfig(file string, env func(string) string, flags *pflag.FlagSet) (Config, error) {
	c := defaults()
	if file != "" {
		if err := readYAML(file, &c); err != nil {
			return c, err
		}
		folder := filepath.Dir(file)
		for _, s := range settings(&c) {
			if text := s.value.String(); s.kind == "path" && text != "" && !filepath.IsAbs(text) {
				s.value.SetString(filepath.Join(folder, text))
			}
		}
		if c.Data.Dir == "" {
			c.Data.Dir = folder
		}
	}
	for _, s := range settings(&c) {
		if text := env(s.env()); text != "" {
			if err := s.set(text); err != nil {
				return c, fmt.Errorf("%s: %w", s.env(), err)
			}
		}
		if flag := flags.Lookup(s.flag()); flag != nil && flag.Changed {
			if err := s.set(flag.Value.String()); err != nil {
				return c, fmt.Errorf("--%s: %w", s.flag(), err)
			}
		}
	}
	return c, c.complete()
}

// unknownKey is how the YAML library says it, in terms of our types.
var unknownKey = regexp.MustCompile(`field (\S+) not found in type (.+)`)

// explainKeys says it in the file's terms: the key, and those that there are.
func explainKeys(message string, into any) string {
	return unknownKey.ReplaceAllStringFunc(message, func(text string) string {
		found := unknownKey.FindStringSubmatch(text)
		text = "unknown key " + found[1]
		if keys := keysOfType(reflect.TypeOf(into), found[2]); len(keys) > 0 {
			text += "; allowed here: " + strings.Join(keys, ", ")
		}
		return text
	})
}

// keysOfType are the keys of the type of that name, in t or below.
func keysOfType(t reflect.Type, name string) []string {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice:
		return keysOfType(t.Elem(), name)
	case reflect.Struct:
	default:
		return nil
	}
	var keys []string
	for i := range t.NumField() {
		if t.String() == name {
			keys = append(keys, t.Field(i).Tag.Get("yaml"))
		} else if keys = keysOfType(t.Field(i).Type, name); keys != nil {
			break
		}
	}
	return keys
}

// readYAML reads file strictly: an unknown key is an error with its line.
func readYAML(file string, into any) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	if err := dec.Decode(into); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: %s", file, explainKeys(err.Error(), into))
	}
	if err := dec.Decode(new(any)); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: more than one YAML document", file)
	}
	return nil
}

// complete fills what follows from other settings and refuses contradictions.
func (c *Config) complete() error {
	if c.Data.Dir != "" {
		for _, key := range []struct {
			file *string
			name string
		}{{&c.Keys.Receipt, "receipt.pem"}, {&c.Keys.Checkpoint, "checkpoint.pem"}, {&c.Keys.Operator, "operator.pem"}} {
			if *key.file == "" {
				*key.file = filepath.Join(c.Data.Dir, "keys", key.name)
			}
		}
	}
	if c.URL == "" {
		c.URL = "http://" + c.Listen
	}
	u, err := url.Parse(c.URL)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") || u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("url: %q is not an http(s) URL", c.URL)
	}
	c.URL = strings.TrimSuffix(c.URL, "/")
	if c.Origin == "" {
		c.Origin = strings.TrimPrefix(strings.TrimPrefix(c.URL, "https://"), "http://") + "/log"
	}
	for _, at := range []struct{ path, address string }{{"listen", c.Listen}, {"ops_listen", c.OpsListen}} {
		if _, _, err := net.SplitHostPort(at.address); err != nil && (at.address != "" || at.path == "listen") {
			return fmt.Errorf("%s: %q is not host:port", at.path, at.address)
		}
	}
	if (c.TLS.Cert == "") != (c.TLS.Key == "") {
		return errors.New("tls: cert and key go together")
	}
	if c.Cadence < time.Second {
		return fmt.Errorf("checkpoint_every: %v is less than a second", c.Cadence)
	}
	if c.Scrub < 0 {
		return fmt.Errorf("scrub_every: %v is negative", c.Scrub)
	}
	if c.Database.URL != "" && c.Database.URLFile != "" {
		return errors.New("database: set url or url_file, not both")
	}
	for _, choice := range []struct {
		path, value string
		of          []string
	}{
		{"database.durability", c.Database.Durability, []string{"postgres", "managed"}},
		{"database.migrate", c.Database.Migrate, []string{"auto", "check", "off"}},
		{"evidence_download", c.EvidenceDownload, []string{redirected, streamed}},
		{"registry.front", c.Registry.Front, []string{beside, pathRouted, inFront}},
		{"registry.host_header", c.Registry.HostHeader, []string{"client", "registry"}},
		{"registry.blob_redirects", c.Registry.BlobRedirects, []string{"pass", "follow"}},
		{"log.level", c.Log.Level, []string{"debug", "info", "warn", "error"}},
		{"log.format", c.Log.Format, []string{"text", "json"}},
	} {
		if !slices.Contains(choice.of, choice.value) {
			return fmt.Errorf("%s: %q is none of %s", choice.path, choice.value, strings.Join(choice.of, ", "))
		}
	}
	if err := c.Registry.check(); err != nil {
		return err
	}
	if c.Registry.Front == inFront && c.Registry.Host == c.Listen {
		return fmt.Errorf("registry.host: %s is where this service listens: name the registry behind it", c.Listen)
	}
	if c.Limits.PullRate > 0 && !c.embeddedRegistry() {
		return errors.New("limits.pull_rate: it is for the embedded registry: leave registry.host empty")
	}
	if err := c.Lookup.check(); err != nil {
		return err
	}
	return c.Limits.check()
}

// Where scittd stands: RegistryConf.Front.
const (
	beside     = "beside"
	pathRouted = "path-routed"
	inFront    = "in-front"
)

// check refuses settings that would be without effect.
func (r RegistryConf) check() error {
	if _, err := storage.ProfileOf(r.Host, r.Profiles); err != nil {
		return fmt.Errorf("registry.profiles: %w", err)
	}
	if r.Reconcile < 0 {
		return fmt.Errorf("registry.reconcile_every: %v is negative", r.Reconcile)
	}
	external := r.Host != "" && !r.Off
	for _, at := range []struct{ path, host string }{{"host", r.Host}, {"public_host", r.PublicHost}} {
		if _, _, err := storage.Endpoint(at.host); err != nil && at.host != "" {
			return fmt.Errorf("registry.%s: %w", at.path, err)
		}
	}
	for _, host := range r.TokenHosts {
		if _, _, err := storage.Endpoint(host); err != nil {
			return fmt.Errorf("registry.token_hosts: %w", err)
		}
	}
	if _, err := repositoryRules("registry.push_through", r.PushThrough, "", pushModes); err != nil {
		return err
	}
	if _, err := repositoryRules("registry.foreign", r.Foreign, "", foreignModes); err != nil {
		return err
	}
	switch {
	case r.Quota < 0, r.FreeSpace < 0:
		return errors.New("registry: quota and free_space are bytes, from 0 on")
	case r.Quota > 0 && (external || r.Off):
		return errors.New("registry.quota: it is for the embedded registry: leave registry.host empty")
	case r.Archive != "" && (r.Off || !policy.ValidRepository(r.Archive)):
		return fmt.Errorf("registry.archive: %q is no repository of a registry that claims are placed in", r.Archive)
	case r.Front != beside && !external:
		return fmt.Errorf("registry.front: %s needs an external registry: set registry.host", r.Front)
	case r.Front == beside && r.HostHeader != "client":
		return errors.New("registry.host_header: set registry.front: clients reach the registry by themselves")
	case r.Front != inFront && r.BlobRedirects != "pass":
		return errors.New("registry.blob_redirects: set registry.front to in-front: no blobs come by here")
	case (r.Off || external && r.Front != inFront) && len(r.PushThrough)+len(r.Foreign) > 0:
		return errors.New("registry: push_through and foreign are for what is pushed through here: set registry.front to in-front, or leave registry.host empty")
	case !external && (r.PublicHost != "" || len(r.TokenHosts) > 0):
		return errors.New("registry: public_host and token_hosts are for an external registry: set registry.host")
	}
	return nil
}

// check refuses limits that nothing could pass, and those that are no numbers.
func (l LimitConfig) check() error {
	for _, size := range []struct {
		path       string
		value, max int64
	}{
		{"statement", l.Statement, statement.MaxSize},
		{"evidence", l.Evidence, l.StagingQuota},
		{"staging_quota", l.StagingQuota, math.MaxInt64},
	} {
		if size.value < 1 || size.value > size.max {
			return fmt.Errorf("limits.%s: %d is not in 1..%d", size.path, size.value, size.max)
		}
	}
	for _, rate := range []struct {
		path  string
		value float64
	}{
		{"caller_rate", l.CallerRate}, {"caller_burst", float64(l.CallerBurst)},
		{"address_rate", l.AddressRate}, {"address_burst", float64(l.AddressBurst)}, {"in_flight", float64(l.InFlight)},
		{"push_rate", l.PushRate}, {"push_burst", float64(l.PushBurst)},
		{"pull_rate", l.PullRate}, {"pull_burst", float64(l.PullBurst)},
	} {
		if !(rate.value >= 0) || math.IsInf(rate.value, 1) {
			return fmt.Errorf("limits.%s: %v is not a number from 0 on", rate.path, rate.value)
		}
	}
	_, err := l.proxies()
	return err
}

// proxies are the address ranges of TrustedProxies.
func (l LimitConfig) proxies() ([]netip.Prefix, error) {
	var all []netip.Prefix
	for _, text := range l.TrustedProxies {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("limits.trusted_proxies: %q is not an address range such as 10.0.0.0/8", text)
		}
		all = append(all, p)
	}
	return all, nil
}

// forAPI are the limits in the API's terms.
func (l LimitConfig) forAPI() api.Limits {
	return api.Limits{
		Statement: l.Statement, Evidence: l.Evidence, StagingQuota: l.StagingQuota,
		CallerRate: l.CallerRate, CallerBurst: l.CallerBurst,
		AddressRate: l.AddressRate, AddressBurst: l.AddressBurst, InFlight: l.InFlight,
		PushRate: l.PushRate, PushBurst: l.PushBurst, PullRate: l.PullRate, PullBurst: l.PullBurst,
	}
}

// registryHost is the host by which images are named, and deliveries with them;
// "" places nothing.
func (c *Config) registryHost() string {
	switch {
	case c.Registry.Off:
		return ""
	case c.Registry.PublicHost != "":
		return c.Registry.PublicHost
	case c.Registry.Host != "" && c.Registry.Front == beside:
		return c.Registry.Host
	}
	u, err := url.Parse(c.URL)
	if err != nil {
		return "" // complete has checked it
	}
	return u.Host
}

// embeddedRegistry says whether /v2 is served from data.dir.
func (c *Config) embeddedRegistry() bool { return !c.Registry.Off && c.Registry.Host == "" }

// sqliteFile is the ledger of the embedded mode.
func (c *Config) sqliteFile() string { return filepath.Join(c.Data.Dir, "ledger.db") }

// postgresURL is the connection URL, "" for SQLite.
func (c *Config) postgresURL() (string, error) {
	if c.Database.URLFile == "" {
		return c.Database.URL, nil
	}
	text, err := readSecret(c.Database.URLFile)
	if err != nil {
		return "", fmt.Errorf("%w: database.url_file: %w", errConfig, err)
	}
	return strings.TrimSpace(string(text)), nil
}

// loopback says whether address can only be reached from this machine.
func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// readSecret reads a file that only its owner may read.
func readSecret(file string) ([]byte, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("%s is readable by others (mode %04o): run chmod 600 %s", file, mode, file)
	}
	return os.ReadFile(file)
}

// writeOnce writes a file. One that is there must say the same already: nothing
// is overwritten, and what was interrupted can be run again.
func writeOnce(file string, content []byte, mode fs.FileMode) error {
	switch have, err := os.ReadFile(file); {
	case errors.Is(err, fs.ErrNotExist):
		return writeNew(file, content, mode)
	case err != nil:
		return err
	case !bytes.Equal(have, content):
		return fmt.Errorf("%w: %s exists and says something else: move it away, or name another folder", errConfig, file)
	}
	return nil
}

// writeNew writes a file that must not exist yet; it is durable on nil.
func writeNew(file string, content []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	folder, err := os.Open(filepath.Dir(file))
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}
