package main

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/spf13/pflag"
	"pgregory.net/rapid"
)

// samples are three valid values of each setting that takes no free text.
var samples = map[string][3]string{
	"url":                     {"https://a.example", "https://b.example", "https://c.example"},
	"listen":                  {"127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"},
	"ops_listen":              {"127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"},
	"database.durability":     {"managed", "postgres", "managed"},
	"database.migrate":        {"auto", "off", "check"},
	"log.level":               {"debug", "warn", "error"},
	"log.format":              {"json", "text", "json"},
	"evidence_download":       {"stream", "redirect", "stream"},
	"registry.host":           {"r.example", "r.example:5000", "127.0.0.1:5000"},
	"registry.archive":        {"archive/one", "archive/two", "archive/three"},
	"registry.front":          {"in-front", "beside", "path-routed"},
	"registry.public_host":    {"a.example", "a.example:1", "b.example"},
	"registry.host_header":    {"registry", "client", "registry"},
	"registry.blob_redirects": {"follow", "pass", "follow"},
	"registry.token_hosts":    {"a.example", "b.example,c.example:1", "d.example"},
	"registry.push_through":   {"gate:*", "off:*,gate:a", "observe:a/*"},
	"registry.foreign":        {"deny:*", "pass:*,deny:a", "register:a"},
	"registry.profiles":       {"a.example like=harbor", "b.example like=ecr", "c.example like=quay"},
	"lookup.hosts":            {"a.example", "b.example,c.example:8443", "[::1]"},
	"lookup.private_hosts":    {"a.internal", "b.internal:8443,10.0.0.1", "localhost:1"},
	"limits.trusted_proxies": {
		"10.0.0.0/8", "fd00::/8,192.168.0.0/16", "127.0.0.1/32",
	},
}

// sampleOf is the n-th sample of a setting, as text.
func sampleOf(s setting, n int) string {
	if texts, ok := samples[s.path]; ok {
		return texts[n]
	}
	switch s.value.Interface().(type) {
	case bool:
		return []string{"true", "false", "true"}[n]
	case time.Duration:
		return []string{"1s", "2m0s", "3h0m0s"}[n]
	case int, int64, float64:
		return []string{"1001", "1002", "1003"}[n]
	}
	return []string{"/srv/one", "/srv/two", "/srv/three"}[n]
}

// configOf reads a configuration from the file's text ("" for no file), environment
// and flags.
func configOf(t *testing.T, text string, env map[string]string, args ...string) (Config, error) {
	t.Helper()
	file := ""
	if text != "" {
		file = filepath.Join(t.TempDir(), configName)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	addConfigFlags(flags)
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	return loadConfig(file, func(name string) string { return env[name] }, flags)
}

func TestFlagWinsOverEnvironmentOverFileForEverySetting(t *testing.T) {
	of := func(c Config, i int) string {
		s := settings(&c)[i]
		if list, ok := s.value.Interface().([]string); ok {
			return strings.Join(list, ",")
		}
		return fmt.Sprint(s.value)
	}
	empty := defaults()
	for i, s := range settings(&empty) {
		t.Run(s.path, func(t *testing.T) {
			value := sampleOf(s, 0)
			if list, ok := s.value.Interface().([]string); ok || list != nil {
				value = "[" + value + "]"
			}
			text := fmt.Sprintf("%s: %s\n", s.path, value)
			if group, leaf, nested := strings.Cut(s.path, "."); nested {
				text = fmt.Sprintf("%s:\n  %s: %s\n", group, leaf, value)
			}
			env := map[string]string{s.env(): sampleOf(s, 1)}
			flag := "--" + s.flag() + "=" + sampleOf(s, 2)
			// What a setting needs beside it comes by flag.
			var beside []string
			switch s.path {
			case "tls.cert":
				beside = []string{"--tls-key=/srv/key"}
			case "tls.key":
				beside = []string{"--tls-cert=/srv/cert"}
			case "registry.front", "registry.public_host", "registry.token_hosts":
				beside = []string{"--registry-host=r.example"}
			case "registry.host_header", "registry.blob_redirects":
				beside = []string{"--registry-host=r.example", "--registry-front=in-front"}
			case "limits.staging_quota":
				beside = []string{"--limits-evidence=1"}
			}
			for _, c := range []struct {
				from string
				env  map[string]string
				args []string
				want int
			}{
				{"the file", nil, beside, 0},
				{"the environment", env, beside, 1},
				{"the flag", env, append(beside, flag), 2},
			} {
				got, err := configOf(t, text, c.env, c.args...)
				if err != nil {
					t.Fatalf("from %s: %v", c.from, err)
				}
				if want := sampleOf(s, c.want); of(got, i) != want {
					t.Errorf("from %s: %s, want %s", c.from, of(got, i), want)
				}
			}
		})
	}
}

func TestConfigurationThatCannotBeMeantIsRefused(t *testing.T) {
	for _, c := range []struct {
		name, text string
		env        map[string]string
		args       []string
		want       string
	}{
		{name: "unknown key", text: "listen: 127.0.0.1:1\nlisen: 127.0.0.1:2\n", want: "line 2: unknown key lisen"},
		{name: "unknown key in a section", text: "log:\n  levle: info\n", want: "line 2: unknown key levle"},
		{name: "key twice", text: "url: http://a\nurl: http://b\n", want: "line 2"},
		{name: "two documents", text: "url: http://a\n---\nurl: http://b\n", want: "more than one"},
		{name: "wrong type", text: "\nregister_wait: soon\n", want: "line 2"},
		{name: "garbled environment", env: map[string]string{"SCITTD_LIMITS_IN_FLIGHT": "many"}, want: "SCITTD_LIMITS_IN_FLIGHT"},
		{name: "garbled flag", args: []string{"--register-wait=soon"}, want: "--register-wait"},
		{name: "checkpoints too often", args: []string{"--checkpoint-every=999ms"}, want: "checkpoint_every"},
		{name: "URL without scheme", args: []string{"--url=scitt.example"}, want: "url:"},
		{name: "URL with query", args: []string{"--url=https://scitt.example?a=b"}, want: "url:"},
		{name: "listen without port", args: []string{"--listen=127.0.0.1"}, want: "listen:"},
		{name: "certificate without key", args: []string{"--tls-cert=/srv/cert"}, want: "tls:"},
		{name: "database twice", args: []string{"--database-url=postgres://db", "--database-url-file=/srv/url"}, want: "database:"},
		{name: "unknown durability", args: []string{"--database-durability=none"}, want: "database.durability"},
		{name: "unknown migration mode", args: []string{"--database-migrate=down"}, want: "database.migrate"},
		{name: "unknown log level", args: []string{"--log-level=loud"}, want: "log.level"},
		{name: "a registry that is a URL", args: []string{"--registry-host=https://registry.example"}, want: "registry.host: "},
		{name: "unknown place of a front", args: []string{"--registry-front=behind"}, want: "registry.front: "},
		{name: "in front of nothing", args: []string{"--registry-front=in-front"}, want: "set registry.host"},
		{name: "behind the proxy of nothing", args: []string{"--registry-front=path-routed", "--registry-host=r.example", "--registry-off"}, want: "set registry.host"},
		{name: "redirects followed for nobody", args: []string{"--registry-host=r.example", "--registry-front=path-routed", "--registry-blob-redirects=follow"}, want: "registry.blob_redirects: "},
		{name: "a Host header without a front", args: []string{"--registry-host=r.example", "--registry-host-header=registry"}, want: "registry.host_header: "},
		{name: "another name for the embedded registry", args: []string{"--registry-public-host=r.example"}, want: "public_host"},
		{name: "a token host that is a URL", args: []string{"--registry-host=r.example", "--registry-token-hosts=https://auth.example"}, want: "registry.token_hosts: "},
		{name: "a push mode that there is not", args: []string{"--registry-push-through=gate:prod,strict:*"}, want: "registry.push_through: "},
		{name: "copies for no repository", args: []string{"--registry-foreign=deny"}, want: "registry.foreign: "},
		{name: "a push mode for what is pushed past here", args: []string{"--registry-host=r.example", "--registry-push-through=gate:*"}, want: "push_through"},
		{name: "copies behind a proxy", args: []string{"--registry-host=r.example", "--registry-front=path-routed", "--registry-foreign=deny:*"}, want: "foreign"},
		{name: "a push mode for no registry", args: []string{"--registry-off", "--registry-push-through=gate:*"}, want: "push_through"},
		{name: "a rate for pulls from somebody else", args: []string{"--registry-host=r.example", "--limits-pull-rate=1"}, want: "limits.pull_rate: "},
		{name: "a quota for the registry of somebody else", args: []string{"--registry-host=r.example", "--registry-quota=1"}, want: "registry.quota: "},
		{name: "an archive that is no repository", args: []string{"--registry-archive=Archive"}, want: "registry.archive: "},
		{name: "an archive of nothing", args: []string{"--registry-archive=archive", "--registry-off"}, want: "registry.archive: "},
		{name: "a profile that nobody knows", args: []string{"--registry-profiles=registry.example like=nobody"}, want: "registry.profiles: "},
		{name: "a reconciliation in the past", args: []string{"--registry-reconcile-every=-1s"}, want: "registry.reconcile_every"},
		{name: "statements of no size", args: []string{"--limits-statement=0"}, want: "limits.statement"},
		{name: "statements that no parser takes", args: []string{"--limits-statement=1048577"}, want: "limits.statement"},
		{name: "evidence over the quota", args: []string{"--limits-evidence=2", "--limits-staging-quota=1"}, want: "limits.evidence"},
		{name: "negative rate", args: []string{"--limits-caller-rate=-1"}, want: "limits.caller_rate"},
		{name: "rate that is no number", args: []string{"--limits-address-rate=NaN"}, want: "limits.address_rate"},
		{name: "endless rate", args: []string{"--limits-address-rate=Inf"}, want: "limits.address_rate"},
		{name: "proxy that is no range", args: []string{"--limits-trusted-proxies=10.0.0.1"}, want: "limits.trusted_proxies"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := configOf(t, c.text, c.env, c.args...); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error that names %q", err, c.want)
			}
		})
	}
}

func TestRelativePathsStartWhereTheyStand(t *testing.T) {
	text := "keys:\n  receipt: keys/one.pem\n"
	got, err := configOf(t, text, nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(got.Data.Dir, "keys/one.pem"); got.Keys.Receipt != want {
		t.Errorf("in the file: %s, want %s", got.Keys.Receipt, want)
	}
	if got, err = configOf(t, text, nil, "--keys-receipt=two.pem"); err != nil || got.Keys.Receipt != "two.pem" {
		t.Errorf("as a flag: %s, want it as given: %v", got.Keys.Receipt, err)
	}
}

func TestWrittenConfigurationReadsBackTheSame(t *testing.T) {
	folder := t.TempDir()
	text := rapid.StringOfN(rapid.RuneFrom([]rune(`"'\:#{}[]&*!|>%@- `), unicode.Letter, unicode.Digit, unicode.Symbol), 1, 20, -1)
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		want := defaults()
		for _, s := range settings(&want) {
			if s.path == "data.dir" || !rapid.Bool().Draw(t, "set "+s.path) {
				continue
			}
			switch v := s.value.Addr().Interface().(type) {
			case *float64:
				*v = rapid.Float64Range(0, 1e9).Draw(t, s.path)
			case *int:
				*v = rapid.IntRange(0, 1e9).Draw(t, s.path)
			case *int64:
				*v = rapid.Int64Range(1, 1<<20).Draw(t, s.path)
			case *time.Duration:
				*v = time.Duration(rapid.Int64Range(0, 1e15).Draw(t, s.path))
			case *string:
				if _, fixed := samples[s.path]; !fixed {
					*v = text.Draw(t, s.path)
					if s.kind == "path" {
						*v = "/" + *v
					}
					continue
				}
				*v = sampleOf(s, rapid.IntRange(0, 2).Draw(t, s.path))
			default:
				if err := s.set(sampleOf(s, rapid.IntRange(0, 2).Draw(t, s.path))); err != nil {
					t.Fatal(err)
				}
			}
		}
		// The contradictions that complete refuses.
		if want.TLS.Cert == "" || want.TLS.Key == "" {
			want.TLS = TLSConfig{}
		}
		if want.Database.URL != "" {
			want.Database.URLFile = ""
		}
		if want.Registry.Off {
			want.Registry.Archive = ""
		}
		if r := &want.Registry; r.Host != "" || r.Off {
			r.Quota = 0
		}
		if r := &want.Registry; r.Host == "" || r.Off {
			r.Front, r.PublicHost, r.TokenHosts = beside, "", nil
		}
		if r := &want.Registry; r.Off || r.Host != "" && r.Front != inFront {
			r.PushThrough, r.Foreign = nil, nil
		}
		if !want.embeddedRegistry() {
			want.Limits.PullRate = 0
		}
		if want.Registry.Front == beside {
			want.Registry.HostHeader = "client"
		}
		if want.Registry.Front != inFront {
			want.Registry.BlobRedirects = "pass"
		}
		want.Cadence = max(want.Cadence, time.Second)
		want.Lookup.Timeout, want.Lookup.MaxAge = max(want.Lookup.Timeout, 1), max(want.Lookup.MaxAge, 1)
		want.Lookup.Size = min(want.Lookup.Size, 256<<10)
		want.Limits.StagingQuota = max(want.Limits.StagingQuota, want.Limits.Evidence)

		n++
		want.Data.Dir = filepath.Join(folder, fmt.Sprint(n))
		if err := os.Mkdir(want.Data.Dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := want.complete(); err != nil {
			t.Fatal(err)
		}
		if err := writeConfigFile(want); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(want.Data.Dir, configName)
		got, err := loadConfig(file, func(string) string { return "" }, &pflag.FlagSet{})
		if written, readErr := os.ReadFile(file); err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("got %+v\nwant %+v\n%v %v\n%s", got, want, err, readErr, written)
		}
	})
}
