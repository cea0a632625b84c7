package client_test

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/scittd/scittd/client"
)

func TestFileNamesInAConfigurationStartAtItsFolder(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("HOME", "/home/somebody")
	file := filepath.Join(dir, "config.yaml")
	must(t, os.WriteFile(file, []byte(`
current: prod
contexts:
  prod:
    service: https://scitt.example
    trust: ~/trust/prod.yaml
    token-file: /run/secrets/token
    key: release.pem
    issuer: https://wabbit.example
    issuers: [{issuer: "https://wabbit.example", scope: "registry.example/net-monitor*"}]
  ci: {key: "env://SIGNING_KEY"}
`), 0o600))
	config, err := client.ReadConfig(file)
	if err != nil {
		t.Fatal(err)
	}
	want := client.Config{Current: "prod", Contexts: map[string]client.Context{
		"prod": {Service: scitt, Trust: "/home/somebody/trust/prod.yaml", TokenFile: "/run/secrets/token", Key: filepath.Join(dir, "release.pem"),
			Issuer: wabbit, Issuers: []client.IssuerScope{{Issuer: wabbit, Scope: "registry.example/net-monitor*"}}},
		"ci": {Key: "env://SIGNING_KEY"},
	}}
	if !reflect.DeepEqual(config, want) {
		t.Errorf("read %+v\nwant %+v", config, want)
	}
	must(t, config.Write(file))
	if again, err := client.ReadConfig(file); err != nil || !reflect.DeepEqual(again, want) {
		t.Errorf("read again %+v, %v", again, err)
	}
}

func TestAConfigurationThatIsWrongIsRefused(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.yaml")
	for text, want := range map[string]string{
		"current: prod\n": "prod",
		"contexts: {a: {servise: https://x.example}}": "servise",
		"contexts: [": "config.yaml",
		"contexts: {a: {service: x, service: y}}": "service",
	} {
		must(t, os.WriteFile(file, []byte(text), 0o600))
		if _, err := client.ReadConfig(file); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: err %v, want %q", text, err, want)
		}
	}
	if config, err := client.ReadConfig(filepath.Join(t.TempDir(), "none")); err != nil || config.Current != "" {
		t.Errorf("a file that is not there: %+v, %v", config, err)
	}
}

func TestAScopeCoversWhatItSays(t *testing.T) {
	for _, c := range []struct {
		scope, image string
		want         bool
	}{
		{"", "registry.example/app", true},
		{"registry.example/app", "registry.example/app", true},
		{"registry.example/app", "registry.example/app2", false},
		{"registry.example/app*", "registry.example/app2", true},
		{"registry.example/*", "registry.example/team/app", true},
		{"registry.example/*", "registry.example.evil/app", false},
	} {
		if got := (client.IssuerScope{Scope: c.scope}).Covers(c.image); got != c.want {
			t.Errorf("scope %q covers %q: %t, want %t", c.scope, c.image, got, c.want)
		}
	}
}
