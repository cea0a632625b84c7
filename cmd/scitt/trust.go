package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v4"

	"github.com/scittd/scittd/client"
	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/receipts"
)

func trustCommand(a *app) *cobra.Command {
	return group("trust", "Pin the keys of services and issuers that you believe",
		trustInit(a), trustAdd(a), trustList(a), trustRemove(a), trustExport(a))
}

func trustInit(a *app) *cobra.Command {
	var fingerprints []string
	cmd := &cobra.Command{
		Use: "init URL", Args: cobra.ExactArgs(1),
		Short: "Fetch a service's receipt keys, show their fingerprints, and pin them when you agree",
		Long: `Fetch a service's receipt keys, show their fingerprints, and pin them when you
agree. With --fingerprint only keys that you name are pinned, and nothing is asked.`,
		Example: "  scitt trust init https://scitt.example",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.open(args[0], "") // whom nobody trusts yet gets no token
			if err != nil {
				return err
			}
			keys, err := c.Keys(cmd.Context())
			if err != nil {
				return err
			}
			facts, err := c.Service(cmd.Context())
			if err != nil {
				return err
			}
			if keys, err = a.agree(c.URL(), facts.URL, keys, fingerprints); err != nil {
				return err
			}
			return a.pin(facts.URL, keys)
		},
	}
	cmd.Flags().StringArrayVar(&fingerprints, "fingerprint", nil, "pin the key of this fingerprint, and no other")
	return cmd
}

// agree finds out which of a service's keys are to be pinned, under the name
// that it gives itself.
func (a *app) agree(asked, name string, keys receipts.KeySet, fingerprints []string) (receipts.KeySet, error) {
	if len(fingerprints) > 0 {
		chosen := slices.DeleteFunc(slices.Clone(keys), func(k cose.Key) bool {
			id, err := client.Fingerprint(k)
			return err != nil || !slices.Contains(fingerprints, id)
		})
		if len(chosen) == 0 {
			return nil, fail(exitUntrusted, "%s has no key of that fingerprint", asked)
		}
		return chosen, nil
	}
	a.tell("%s calls itself %s and shows these receipt keys:", asked, name)
	for _, key := range keys {
		info, err := describeKey(key.Public)
		if err != nil {
			return nil, err
		}
		a.tell("  %s  %s", info.KeyID, info.Algorithm)
	}
	// Anyone can call himself anything: under another name it takes a person.
	if a.yes && name != asked {
		return nil, fail(exitUntrusted, "%s calls itself %s; --yes pins a service under its own URL only", asked, name).
			try("scitt trust init %s, or --fingerprint KEY with what the operator told you", name)
	}
	return keys, a.confirm("Compare them with what the operator told you. Pin them?")
}

// pin adds the keys of the service that calls itself url.
func (a *app) pin(url string, keys receipts.KeySet) error {
	trust, err := a.trust()
	if err != nil {
		return err
	}
	if err := trust.Pin(url, keys, time.Now()); err != nil {
		return err
	}
	if err := trust.Write(a.trustFile); err != nil {
		return err
	}
	pinned, _ := trust.Find(url)
	return a.print("PinnedService", pinned, func(w io.Writer) {
		fmt.Fprintf(w, "Pinned  %s  %d keys  in %s\n", clean(url), len(pinned.Keys), a.trustFile)
	})
}

// trusting are the flags of trust add.
type trusting struct{ service, keySet, issuer, key, roots, san, eku string }

func trustAdd(a *app) *cobra.Command {
	var t trusting
	cmd := &cobra.Command{
		Use: "add (--pin-service URL --key-set FILE | --issuer ISS (--key PUB | --roots PEM))", Args: cobra.NoArgs,
		Short: "Pin a service's keys from a file, or an issuer's key or roots, without network",
		RunE: func(*cobra.Command, []string) error {
			switch {
			case t.service != "" && t.keySet != "" && t.issuer == "":
				raw, err := os.ReadFile(t.keySet)
				if err != nil {
					return usage("--key-set: %w", err)
				}
				set, err := receipts.ParseKeySet(raw)
				if err != nil {
					return usage("--key-set %s: %w", t.keySet, err)
				}
				return a.pin(strings.TrimSuffix(t.service, "/"), set)
			case t.issuer != "" && (t.key == "") != (t.roots == "") && t.service == "":
				return a.trustIssuer(t)
			}
			return usage("say what to pin: a service with its key set, or an issuer with its key or its roots").
				try("scitt trust add --issuer https://wabbit.example --key wabbit.pub")
		},
	}
	f := cmd.Flags()
	f.StringVar(&t.service, "pin-service", "", "URL of a service")
	f.StringVar(&t.keySet, "key-set", "", "its COSE Key Set, as scitt-keys serves it")
	f.StringVar(&t.issuer, "issuer", "", "an issuer")
	f.StringVar(&t.key, "key", "", "its public key, PEM")
	f.StringVar(&t.roots, "roots", "", "root certificates of its chains, PEM")
	f.StringVar(&t.san, "san", "", "what the leaf's subject alternative name must be (default: a URI equal to the issuer)")
	f.StringVar(&t.eku, "eku", "", "the leaf's extended key usage, name or OID (default: codeSigning)")
	return cmd
}

func (a *app) trustIssuer(t trusting) error {
	trusted := client.TrustedIssuer{Issuer: t.issuer, SAN: t.san, EKU: t.eku}
	by, name, into := "key", t.key, &trusted.Key
	if t.roots != "" {
		by, name, into = "roots", t.roots, &trusted.Roots
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return usage("--%s: %w", by, err)
	}
	*into = string(text)
	trust, err := a.trust()
	if err != nil {
		return err
	}
	if err := trust.TrustIssuer(trusted); err != nil {
		return usage("--%s %s: %w", by, name, err)
	}
	if err := trust.Write(a.trustFile); err != nil {
		return err
	}
	return a.print("TrustedIssuer", trusted, func(w io.Writer) {
		fmt.Fprintf(w, "Trusted  %s  by its %s  in %s\n", clean(t.issuer), by, a.trustFile)
	})
}

func trustList(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List what is pinned", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			trust, err := a.trust()
			if err != nil {
				return err
			}
			return a.print("Trust", trust, func(w io.Writer) {
				for _, s := range trust.Services {
					fmt.Fprintf(w, "service  %s  pinned %s\n", clean(s.URL), clean(s.Pinned))
					for _, k := range s.Keys {
						fmt.Fprintf(w, "  key    %s\n", clean(k.ID))
					}
				}
				for _, i := range trust.Issuers {
					by := "key"
					if i.Roots != "" {
						by = "roots"
					}
					fmt.Fprintf(w, "issuer   %s  by its %s\n", clean(i.Issuer), by)
				}
			})
		},
	}
}

func trustRemove(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "remove NAME", Short: "Forget a service or an issuer", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			trust, err := a.trust()
			if err != nil {
				return err
			}
			if !trust.Remove(args[0]) {
				return fail(exitEmpty, "%s is not in %s", args[0], a.trustFile).try("scitt trust list")
			}
			if err := trust.Write(a.trustFile); err != nil {
				return err
			}
			return a.print("Removed", map[string]string{"name": args[0]}, func(w io.Writer) {
				fmt.Fprintf(w, "Removed  %s  from %s\n", clean(args[0]), a.trustFile)
			})
		},
	}
}

func trustExport(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "export [-o FILE]", Short: "Write the trust file, to carry to a machine without network", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			trust, err := a.trust()
			if err != nil {
				return err
			}
			text, err := yaml.Marshal(trust)
			if err != nil {
				return err
			}
			return a.print("Trust", trust, func(w io.Writer) { w.Write(text) })
		},
	}
}
