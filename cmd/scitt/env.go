package main

import (
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// setting is a flag with its value in this run and where that comes from.
type setting struct {
	Flag     string   `json:"flag,omitempty"` // none: the variable alone sets it
	Variable string   `json:"variable"`
	Value    string   `json:"value"`
	Source   string   `json:"source"`             // flag, env, context, default
	Commands []string `json:"commands,omitempty"` // which take it; none: all do
}

func envCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "env", Args: cobra.NoArgs,
		Short: "Print every setting, its value and where that comes from",
		Long: `Print every setting: its flag, its variable, its value and whether that comes from
a flag, the environment, the context in the configuration file, or is the default.
Flags of single commands are listed where the environment or the context sets
them. Secrets are shown as REDACTED.`,
		Example: "  scitt env\n  scitt env --context prod --format json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			all := append(a.globalSettings(cmd.Root()), a.commandSettings(cmd.Root())...)
			return a.print("Settings", all, settingTable(all))
		},
	}
}

// globalSettings are those of every command.
func (a *app) globalSettings(root *cobra.Command) []setting {
	config := setting{Variable: "SCITT_CONFIG", Value: a.configFile, Source: fromDefault}
	if a.env(config.Variable) != "" {
		config.Source = fromEnvironment
	}
	all := []setting{config}
	root.PersistentFlags().VisitAll(func(f *pflag.Flag) {
		s := setting{Flag: f.Name, Variable: variable(f), Value: f.Value.String(), Source: a.sources[f.Name]}
		if s.Source == "" {
			s.Source = fromDefault
		}
		if list, ok := f.Value.(pflag.SliceValue); ok {
			s.Value = strings.Join(list.GetSlice(), ", ")
		}
		s.Value = redacted(s.Flag, s.Value)
		all = append(all, s)
	})
	return all
}

// commandSettings are flags of single commands, where environment or context
// sets them: a variable that was forgotten shows here.
func (a *app) commandSettings(root *cobra.Command) []setting {
	set := map[string]*setting{}
	var names []string
	visit(root, func(cmd *cobra.Command) {
		cmd.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
			value := a.env(variable(f))
			if value == "" || f.Name == "help" {
				return
			}
			if set[f.Name] == nil {
				set[f.Name] = &setting{Flag: f.Name, Variable: variable(f), Value: redacted(f.Name, value), Source: fromEnvironment}
				names = append(names, f.Name)
			}
			s := set[f.Name]
			s.Commands = append(s.Commands, strings.TrimPrefix(cmd.CommandPath(), root.Name()+" "))
		})
	})
	slices.Sort(names)
	all := []setting{}
	for _, name := range names {
		all = append(all, *set[name])
	}

	var issuers []string
	for _, i := range a.context.Issuers {
		if i.Scope != "" {
			i.Issuer += " about " + i.Scope
		}
		issuers = append(issuers, i.Issuer)
	}
	signing := []string{"attach", "key public", "sign"}
	for _, s := range []setting{
		{Flag: "issuer", Value: a.context.Issuer, Commands: signing},
		{Flag: "issuer", Value: strings.Join(issuers, ", "), Commands: []string{"verify"}},
		{Flag: "key", Value: a.context.Key, Commands: signing},
	} {
		if s.Value != "" && set[s.Flag] == nil {
			s.Variable, s.Source = variableOf(s.Flag), fromContext
			s.Value = redacted(s.Flag, s.Value)
			all = append(all, s)
		}
	}
	return all
}

// visit calls do for every command below cmd.
func visit(cmd *cobra.Command, do func(*cobra.Command)) {
	for _, c := range cmd.Commands() {
		do(c)
		visit(c, do)
	}
}

// redacted hides what would let somebody else act: what headers carry, a
// password in a URL, and a key where the name of one belongs.
func redacted(flag, value string) string {
	const hidden = "REDACTED"
	switch {
	case flag == "header" && value != "":
		return hidden
	case strings.Contains(value, "PRIVATE KEY"):
		return hidden
	case strings.Contains(value, "://") && strings.Contains(value, "@"):
		u, err := url.Parse(value)
		if err != nil {
			return hidden
		}
		if u.User != nil {
			u.User = url.User(hidden)
			return u.String()
		}
	}
	return value
}

func settingTable(all []setting) func(io.Writer) {
	return func(w io.Writer) {
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "FLAG\tVARIABLE\tVALUE\tSOURCE")
		for _, s := range all {
			flag, value := "-", clean(s.Value)
			if s.Flag != "" {
				flag = "--" + s.Flag
			}
			if value == "" {
				value = "-"
			}
			if len(s.Commands) > 0 {
				s.Source += " (" + strings.Join(s.Commands, ", ") + ")"
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", flag, s.Variable, value, s.Source)
		}
		t.Flush()
	}
}
