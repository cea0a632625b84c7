package main

import (
	"path/filepath"
	"strings"
	"text/template"
	"time"

	"github.com/spf13/pflag"

	"github.com/scittd/scittd/client"
)

// app is one run: its surroundings, its global flags and, after prepare, the
// context that the configuration names.
type app struct {
	process

	service, contextName, trustFile string
	tokenFile                       string
	tokenStdin                      bool
	format, output                  string
	quiet, verbose, debug, yes      bool
	timeout                         time.Duration
	registryConfig                  string
	plainHTTP                       bool
	caFile, certFile, keyFile       string
	headers                         []string

	sources    map[string]string // of global flags that are not at their default: where they come from
	context    client.Context
	configFile string
	template   *template.Template // of --format go-template=...
	answered   bool               // a result was written
}

// Where a setting comes from, first the strongest.
const (
	fromFlag        = "flag"
	fromEnvironment = "env"
	fromContext     = "context"
	fromDefault     = "default"
)

func (a *app) addGlobalFlags(f *pflag.FlagSet) {
	f.StringVarP(&a.service, "service", "s", "", "URL of the transparency service")
	f.StringVar(&a.contextName, "context", "", "named set of defaults in the configuration file")
	f.StringVar(&a.trustFile, "trust", "", "file of pinned service keys and issuers (default: trust.yaml beside the configuration)")
	f.StringVar(&a.tokenFile, "token-file", "", "file that holds the caller's token")
	f.BoolVar(&a.tokenStdin, "token-stdin", false, "read the caller's token from standard input")
	f.StringVar(&a.format, "format", "text", "text, json or go-template=TEMPLATE")
	f.StringVarP(&a.output, "output", "o", "", "file to write the result to; - is standard output")
	f.BoolVarP(&a.quiet, "quiet", "q", false, "no progress and no warnings")
	f.BoolVarP(&a.verbose, "verbose", "v", false, "say more on standard error")
	f.BoolVarP(&a.debug, "debug", "d", false, "trace requests on standard error, without secrets")
	f.BoolVarP(&a.yes, "yes", "y", false, "do not ask")
	f.DurationVarP(&a.timeout, "timeout", "t", 3*time.Minute, "for the whole run")
	f.StringVar(&a.registryConfig, "registry-config", "", "docker config with registry credentials (default: the user's)")
	f.BoolVar(&a.plainHTTP, "plain-http", false, "speak plain HTTP to the registry; loopback hosts always do")
	f.StringVar(&a.caFile, "ca-file", "", "CA certificates to trust instead of the system's, PEM, for registry and service")
	f.StringVar(&a.certFile, "cert-file", "", "client certificate, PEM, for registry and service")
	f.StringVar(&a.keyFile, "key-file", "", "its private key, PEM")
	f.StringArrayVarP(&a.headers, "header", "H", nil, "header to send to the registry, 'Name: value'")
}

// prepare completes flags from the environment and the configuration file:
// flag, then SCITT_<FLAG>, then context, then default.
func (a *app) prepare(command string, flags *pflag.FlagSet) error {
	if err := a.readEnvironment(flags); err != nil {
		return err
	}
	if err := a.checkFormat(command); err != nil {
		return err
	}
	if a.timeout <= 0 {
		return usage("--timeout %s is no time to do anything in", a.timeout)
	}
	return a.readConfig()
}

func (a *app) readEnvironment(flags *pflag.FlagSet) error {
	var err error
	a.sources = map[string]string{}
	flags.VisitAll(func(f *pflag.Flag) {
		value := a.env(variable(f))
		switch {
		case f.Changed:
			a.sources[f.Name] = fromFlag
		case value != "" && f.Name != "help" && err == nil:
			a.sources[f.Name] = fromEnvironment
			if refused := flags.Set(f.Name, value); refused != nil {
				err = usage("%s: %w", variable(f), refused)
			}
		}
	})
	return err
}

// variable is the environment's name of a flag.
func variable(f *pflag.Flag) string { return variableOf(f.Name) }

func variableOf(flag string) string {
	return "SCITT_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// readConfig takes what no flag says from the chosen context.
func (a *app) readConfig() error {
	a.configFile = a.env("SCITT_CONFIG")
	if a.configFile == "" {
		dir := a.env("XDG_CONFIG_HOME")
		if dir == "" {
			dir = filepath.Join(a.env("HOME"), ".config")
		}
		a.configFile = filepath.Join(dir, "scitt", "config.yaml")
	}
	config, err := client.ReadConfig(a.configFile)
	if err != nil {
		return usage("configuration: %w", err)
	}
	name := a.contextName
	if name == "" {
		name = config.Current
	}
	chosen, ok := config.Contexts[name]
	if name != "" && !ok {
		return usage("%s has no context %q", a.configFile, name)
	}
	a.context = chosen
	a.fromContext("context", &a.contextName, config.Current)
	a.fromContext("service", &a.service, chosen.Service)
	if a.service == chosen.Service { // a context's token is for its own service
		a.fromContext("token-file", &a.tokenFile, chosen.TokenFile)
	}
	a.fromContext("trust", &a.trustFile, chosen.Trust)
	if a.trustFile == "" {
		a.trustFile = filepath.Join(filepath.Dir(a.configFile), "trust.yaml")
	}
	a.say("configuration %s, trust %s", a.configFile, a.trustFile)
	return nil
}

// fromContext takes what neither flag nor environment says.
func (a *app) fromContext(flag string, setting *string, value string) {
	if *setting == "" && value != "" {
		*setting = value
		a.sources[flag] = fromContext
	}
}

// trust reads the pinned keys.
func (a *app) trust() (client.Trust, error) {
	t, err := client.ReadTrust(a.trustFile)
	if err != nil {
		return t, usage("trust: %w", err)
	}
	return t, nil
}
