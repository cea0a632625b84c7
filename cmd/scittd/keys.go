package main

import (
	"bytes"
	"context"
	"crypto"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/scittd/scittd/client"
	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/statement"
)

func keysCommand(p process) *cobra.Command {
	return group("keys", "List the log's keys, and announce a new one", keysList(p), keysRotate(p))
}

func keysList(p process) *cobra.Command {
	var dir, file string
	var checkpoint bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the receipt keys that the log announced, the newest first",
		Long: `List the receipt keys that the log announced, the newest first. The current one has
signed the newest head; one before it is announced and has yet to sign, one behind it
is retired. With --checkpoint they are those of checkpoints, and the current one is
that of the configuration.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := serveConfig(cmd, p, dir, file)
			if err != nil {
				return err
			}
			own, err := ownKey(c)
			if err != nil {
				return err
			}
			return withDatabase(cmd, p, dir, file, func(db database) error {
				l, err := ledger.Open(cmd.Context(), db, ledger.Options{})
				if err != nil {
					return err
				}
				if checkpoint {
					return errors.Join(listCheckpoint(p, c, l), l.Close(cmd.Context()))
				}
				head, err := l.Head(cmd.Context())
				if err != nil {
					return errors.Join(err, l.Close(cmd.Context()))
				}
				keys := l.Keys()
				signs := slices.IndexFunc(keys, func(k cose.Key) bool { return receipts.VerifyHead(head.SignedHead, k.Public) == nil })
				table := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
				fmt.Fprintln(table, "KEY\tSTATE\tFILE")
				for i, k := range keys {
					at := ""
					if bytes.Equal(k.ID, own) {
						at = c.Keys.Receipt
					}
					fmt.Fprintf(table, "%s\t%s\t%s\n", keyName(k.ID), keyState(i, signs), at)
				}
				return errors.Join(table.Flush(), l.Close(cmd.Context()))
			})
		},
	}
	cmd.Flags().BoolVar(&checkpoint, "checkpoint", false, "list the checkpoint keys")
	addLocationFlags(cmd, &dir, &file)
	return cmd
}

// ownKey is the thumbprint of the key that this configuration signs with; nil
// for one that signs nothing.
func ownKey(c Config) ([]byte, error) {
	if c.ReadOnly {
		return nil, nil
	}
	issuer, err := openIssuer(c)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errConfig, err)
	}
	return issuer.KeyID(), nil
}

func keyName(id []byte) string { return base64.RawURLEncoding.EncodeToString(id) }

// keyState is that of key i, of keys the newest of which comes first, while signs
// is the one that signs.
func keyState(i, signs int) string {
	switch {
	case i == signs:
		return "current"
	case i < signs:
		return "announced"
	}
	return "retired"
}

func keysRotate(p process) *cobra.Command {
	var dir, file, keyPath, service, tokenFile string
	var checkpoint bool
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Announce a new receipt or checkpoint key in the log, so that it may sign from then on",
		Long: `Announce a new receipt key in the log: a service statement that names it first,
signed with the operator key and registered with the running service. A key that
is not announced signs nothing; one that is stays good for what it has signed.

Replicas go on with the key of their configuration until they are restarted with
the new one, one after the other, in any order. Clients that pinned the old key
have to pin the new one too before they can verify its receipts.

With --checkpoint it is the key of the checkpoints, Ed25519. Witnesses have to know
the new one before the first checkpoint under it: they cosign none before. One
operator's signature is enough for either, whatever the policy's threshold is.`,
		Example: "  scittd keys rotate --dir /var/lib/scittd --token-file token",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := serveConfig(cmd, p, dir, file)
			if err != nil {
				return err
			}
			o, err := asOperator(c, service, tokenFile)
			if err != nil {
				return err
			}
			if checkpoint {
				return rotateCheckpoint(cmd.Context(), p, c, o, keyPath)
			}
			if keyPath == "" {
				keyPath = filepath.Join(filepath.Dir(c.Keys.Receipt), "receipt-next.pem")
			}
			key, err := keyFile(keyPath, newECKey)
			if err != nil {
				return fmt.Errorf("new receipt key: %w", err)
			}
			next, err := receipts.NewIssuer(key, c.URL, c.Origin)
			if err != nil {
				return fmt.Errorf("%w: new receipt key %s: %w", errConfig, keyPath, err)
			}
			entry, err := o.announce(cmd.Context(), next)
			if err != nil {
				return err
			}
			fmt.Fprintf(p.stdout, `Announced    entry %s
Receipt key  %s  (pin this in your clients)
Next:        set keys.receipt to %s and restart each replica; until then it signs with the old key
`, entry, keyName(next.KeyID()), keyPath)
			return nil
		},
	}
	cmd.Flags().StringVar(&keyPath, "key", "", "file of the new key, ES256 (of checkpoints: Ed25519), PEM, 0600; made when there is none (default: receipt-next.pem beside keys.receipt, checkpoint-next.pem beside keys.checkpoint)")
	cmd.Flags().BoolVar(&checkpoint, "checkpoint", false, "announce a checkpoint key")
	addOperatorFlags(cmd, &service, &tokenFile)
	addLocationFlags(cmd, &dir, &file)
	return cmd
}

// announce registers a service statement that names next first, and the log's
// keys as they are.
func (o *operator) announce(ctx context.Context, next *receipts.Issuer) (statement.ID, error) {
	svc, keys, err := o.announced(ctx)
	if err != nil {
		return statement.ID{}, err
	}
	if _, known := keys.Find(next.KeyID()); known {
		return statement.ID{}, fmt.Errorf("%w: receipt key %s is announced already\nTry:   scittd keys list", errConfig, keyName(next.KeyID()))
	}
	b, err := cose.Key{ID: next.KeyID(), Alg: cose.ES256, Public: next.Public()}.Marshal()
	if err != nil {
		return statement.ID{}, err
	}
	svc.ReceiptKeys = slices.Insert(svc.ReceiptKeys, 0, b)
	return o.announceService(ctx, svc)
}

// operator speaks for the service, to the service.
type operator struct {
	config  Config
	key     crypto.Signer
	service *client.Client
}

// addOperatorFlags adds where and as whom an operator's statement is registered.
func addOperatorFlags(cmd *cobra.Command, service, tokenFile *string) {
	cmd.Flags().StringVar(service, "service", "", "URL the service answers at (default: its public URL)")
	cmd.Flags().StringVar(tokenFile, "token-file", "", "file with a token of scope publish, 0600")
}

// asOperator reads the operator key and the token.
func asOperator(c Config, serviceURL, tokenFile string) (*operator, error) {
	if serviceURL == "" {
		serviceURL = c.URL
	}
	token, err := readToken(tokenFile)
	if err != nil {
		return nil, err
	}
	pem, err := readSecret(c.Keys.Operator)
	if err != nil {
		return nil, fmt.Errorf("operator key: %w", err)
	}
	key, err := cose.ParsePrivatePEM(pem)
	if err != nil {
		return nil, fmt.Errorf("operator key %s: %w", c.Keys.Operator, err)
	}
	service, err := client.New(serviceURL, client.Options{Token: token, UserAgent: "scittd/" + version()})
	if err != nil {
		return nil, err
	}
	return &operator{config: c, key: key, service: service}, nil
}

// readToken reads the token in file; "" has none.
func readToken(file string) (string, error) {
	if file == "" {
		return "", nil
	}
	text, err := readSecret(file)
	return strings.TrimSpace(string(text)), err
}

// register signs one of the service's own statements and registers it.
func (o *operator) register(ctx context.Context, sub, mediaType string, payload []byte) (statement.ID, error) {
	var none statement.ID
	signed, err := signOperator(o.key, o.config.URL, sub, mediaType, payload)
	if err != nil {
		return none, err
	}
	done, err := o.service.Register(ctx, signed.Canonical(), "")
	if p := (*client.Problem)(nil); errors.As(err, &p) {
		switch {
		case p.Rule != "":
			return none, fmt.Errorf("%w: %w (rule %s of policy %s)\nTry:   %s", errRefused, err, p.Rule, p.PolicyEntry, p.Hint)
		case p.Status == http.StatusUnauthorized || p.Status == http.StatusForbidden:
			return none, fmt.Errorf("%w: %w\nTry:   --token-file, with a token of scope publish", errToken, err)
		}
	}
	if err != nil {
		return none, err
	}
	if done.EntryID != signed.ID() {
		return none, errors.New("the service registered something else: " + done.EntryID.String())
	}
	return done.EntryID, nil
}
