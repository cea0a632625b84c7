package main

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/scittd/scittd/ledger"
)

func tokenCommand(p process) *cobra.Command {
	return group("token", "Create, list and revoke callers' tokens", tokenCreate(p), tokenList(p), tokenRevoke(p))
}

func tokenCreate(p process) *cobra.Command {
	var dir, file, scopes string
	var expires time.Duration
	cmd := &cobra.Command{
		Use:   "create NAME --scope SCOPES --expires DURATION",
		Short: "Create a token and print it once",
		Long: `Create a token and print it once; only its SHA-256 is kept. Scopes: publish
(register statements, stage evidence, push to the registry), read (see private
entries too), purge (declare evidence purged). On /v2 the token is the password;
any user name will do.`,
		Example: "  scittd token create ci --scope publish --expires 2160h",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			token, err := newToken(args[0], strings.Split(scopes, ","), expires, time.Now())
			if err != nil {
				return err
			}
			return withDatabase(cmd, p, dir, file, func(db database) error {
				if err := db.AddToken(cmd.Context(), token.Token); err != nil {
					return err
				}
				fmt.Fprintf(p.stderr, "Token %s for %q, scopes %s, expires %s. It is not shown again.\n",
					token.ID, token.Name, strings.Join(token.Scopes, ","), token.Expires.UTC().Format(time.RFC3339))
				fmt.Fprintln(p.stdout, token.secret)
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&scopes, "scope", "", "publish, read, purge, or several with commas (required)")
	cmd.Flags().DurationVar(&expires, "expires", 0, "how long it is valid, such as 720h (required)")
	addLocationFlags(cmd, &dir, &file)
	return cmd
}

// newSecretToken is a token with the secret that is shown once.
type newSecretToken struct {
	ledger.Token
	secret string
}

// tokenPrefix tells a token of this service from a registry's credentials.
const tokenPrefix = "scitt_"

// newToken makes a token with 32 random bytes.
func newToken(name string, scopes []string, expires time.Duration, now time.Time) (newSecretToken, error) {
	slices.Sort(scopes)
	scopes = slices.Compact(scopes)
	for _, scope := range scopes {
		if !slices.Contains(ledger.TokenScopes(), scope) {
			return newSecretToken{}, fmt.Errorf("%w: --scope %q is none of %s", errUsage, scope, strings.Join(ledger.TokenScopes(), ", "))
		}
	}
	if expires <= 0 {
		return newSecretToken{}, fmt.Errorf("%w: --expires must be a duration such as 720h", errUsage)
	}
	random := make([]byte, 32+4)
	if _, err := rand.Read(random); err != nil {
		return newSecretToken{}, err
	}
	secret := tokenPrefix + base64.RawURLEncoding.EncodeToString(random[:32])
	return newSecretToken{secret: secret, Token: ledger.Token{
		ID: hex.EncodeToString(random[32:]), Name: name, Hash: sha256.Sum256([]byte(secret)), Scopes: scopes,
		Created: now.Truncate(time.Second), Expires: now.Add(expires).Truncate(time.Second),
	}}, nil
}

func tokenList(p process) *cobra.Command {
	var dir, file string
	cmd := &cobra.Command{
		Use: "list", Short: "List tokens; never their secrets", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withDatabase(cmd, p, dir, file, func(db database) error {
				tokens, err := db.ListTokens(cmd.Context())
				if err != nil {
					return err
				}
				table := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
				fmt.Fprintln(table, "ID\tNAME\tSCOPES\tEXPIRES\tSTATE")
				for _, t := range tokens {
					fmt.Fprintf(table, "%s\t%q\t%s\t%s\t%s\n", t.ID, t.Name, strings.Join(t.Scopes, ","),
						t.Expires.UTC().Format(time.RFC3339), tokenState(t, time.Now()))
				}
				return table.Flush()
			})
		},
	}
	addLocationFlags(cmd, &dir, &file)
	return cmd
}

func tokenState(t ledger.Token, now time.Time) string {
	switch {
	case !t.Revoked.IsZero():
		return "revoked"
	case !now.Before(t.Expires):
		return "expired"
	}
	return "valid"
}

func tokenRevoke(p process) *cobra.Command {
	var dir, file string
	cmd := &cobra.Command{
		Use: "revoke ID", Short: "Revoke a token", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withDatabase(cmd, p, dir, file, func(db database) error {
				err := db.RevokeToken(cmd.Context(), args[0], time.Now())
				if errors.Is(err, ledger.ErrNotFound) {
					return fmt.Errorf("there is no token %s\nTry:   scittd token list", args[0])
				}
				return err
			})
		},
	}
	addLocationFlags(cmd, &dir, &file)
	return cmd
}

// withDatabase runs work on the database of an initialised log.
func withDatabase(cmd *cobra.Command, p process, dir, file string, work func(database) error) error {
	c, err := serveConfig(cmd, p, dir, file)
	if err != nil {
		return err
	}
	db, err := openBeside(cmd.Context(), c)
	if err != nil {
		return err
	}
	return errors.Join(work(db), db.Close())
}
