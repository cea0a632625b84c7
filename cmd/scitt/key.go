package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/scittd/scittd/client"
	"github.com/scittd/scittd/internal/cose"
)

func keyCommand(a *app) *cobra.Command {
	return group("key", "Make signing keys and show their public halves", keyGenerate(a), keyImport(a), keyPublic(a), keyList(a))
}

// keyInfo describes a public key.
type keyInfo struct {
	KeyID     string `json:"keyId"` // RFC 9679 thumbprint, base64url
	Algorithm string `json:"algorithm"`
	File      string `json:"file,omitempty"`      // of the private key
	Public    string `json:"publicKey,omitempty"` // PEM
}

func describeKey(public crypto.PublicKey) (keyInfo, error) {
	id, err := client.Fingerprint(cose.Key{Public: public})
	if err != nil {
		return keyInfo{}, err
	}
	alg, err := cose.DefaultAlgorithm(public)
	if err != nil {
		return keyInfo{}, err
	}
	pem, err := cose.MarshalPublicPEM(public)
	return keyInfo{KeyID: id, Algorithm: alg.String(), Public: string(pem)}, err
}

func keyGenerate(a *app) *cobra.Command {
	var kind string
	cmd := &cobra.Command{
		Use: "generate [-o FILE]", Args: cobra.NoArgs,
		Short:   "Make a private key; a file that exists is never overwritten",
		Long:    "Make a private key and write it to a file of your own, scitt.key.pem unless -o\nnames one. A file that exists is never overwritten.",
		Example: "  scitt key generate -o release.pem",
		RunE: func(*cobra.Command, []string) error {
			key, err := generateKey(kind)
			if err != nil {
				return err
			}
			return a.keep(key)
		},
	}
	cmd.Flags().StringVar(&kind, "type", "p256", "p256, p384, p521 or ed25519")
	return cmd
}

// keep writes a private key as PKCS#8 to the file that -o names, and says what
// it is.
func (a *app) keep(key crypto.Signer) error {
	pem, err := cose.MarshalPrivatePEM(key)
	if err != nil {
		return err
	}
	info, err := describeKey(key.Public())
	if err != nil {
		return err
	}
	if a.output == "-" {
		return a.write(pem)
	}
	if info.File = a.output; info.File == "" {
		info.File = "scitt.key.pem"
	}
	if err := writeSecret(info.File, pem); err != nil {
		return err
	}
	return a.report("Key", info, info.text)
}

func (i keyInfo) text(w io.Writer) {
	fmt.Fprintf(w, "Key    %s  %s  kid %s\n", i.File, i.Algorithm, i.KeyID)
}

func keyImport(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "import KEY [-o FILE]", Args: cobra.ExactArgs(1),
		Short:   "Copy a private key made elsewhere (PKCS#8, SEC 1 or PKCS#1 PEM) into a file that only you read",
		Example: "  scitt key import openssl-ec.pem -o release.pem\n  scitt key import env://SIGNING_KEY -o release.pem",
		RunE: func(_ *cobra.Command, args []string) error {
			key, err := a.signingKey(args[0])
			if err != nil {
				return err
			}
			return a.keep(key)
		},
	}
}

func keyList(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "list", Args: cobra.NoArgs,
		Short: "List the signing keys that the contexts of the configuration name",
		RunE: func(*cobra.Command, []string) error {
			config, err := client.ReadConfig(a.configFile)
			if err != nil {
				return usage("configuration: %w", err)
			}
			keys := []keyInfo{}
			for _, name := range slices.Sorted(maps.Keys(config.Contexts)) {
				file := config.Contexts[name].Key
				if file == "" {
					continue
				}
				key, err := a.signingKey(file)
				if err != nil {
					return fmt.Errorf("context %s: %w", name, err)
				}
				info, err := describeKey(key.Public())
				if err != nil {
					return err
				}
				info.File = file
				keys = append(keys, info)
			}
			if len(keys) == 0 {
				return fail(exitEmpty, "no context of %s names a key", a.configFile).try("scitt key generate -o key.pem")
			}
			return a.report("Keys", keys, func(w io.Writer) {
				for _, k := range keys {
					k.text(w)
				}
			})
		},
	}
}

func generateKey(kind string) (crypto.Signer, error) {
	switch kind {
	case "p256":
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "p384":
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "p521":
		return ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case "ed25519":
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	}
	return nil, usage("--type %q is none of p256, p384, p521, ed25519", kind)
}

// writeSecret makes a file that only its owner reads; it must not exist.
func writeSecret(file string, content []byte) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return usage("%w", err)
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Close())
}

func keyPublic(a *app) *cobra.Command {
	var name, issuer string
	var policy bool
	cmd := &cobra.Command{
		Use: "public --key KEY", Args: cobra.NoArgs,
		Short:   "Print the public half of a key, or the YAML that an operator pastes",
		Example: "  scitt key public --key release.pem -o release.pub\n  scitt key public --key release.pem --policy --issuer https://wabbit.example",
		RunE: func(*cobra.Command, []string) error {
			public, err := a.publicKey(name)
			if err != nil {
				return err
			}
			info, err := describeKey(public)
			if err != nil {
				return err
			}
			if issuer == "" {
				issuer = a.context.Issuer
			}
			if policy && issuer == "" {
				return usage("--policy needs to know who signs with the key").try("scitt key public --key %s --policy --issuer https://wabbit.example", name)
			}
			return a.print("Key", info, func(w io.Writer) {
				if policy {
					policyEntry(w, issuer, info.Public)
					return
				}
				io.WriteString(w, info.Public)
			})
		},
	}
	cmd.Flags().StringVar(&name, "key", "", "a private or public key: a PEM file or env://VARIABLE")
	cmd.Flags().StringVar(&issuer, "issuer", "", "iss that signs with it")
	cmd.Flags().BoolVar(&policy, "policy", false, "print the entry of a policy's issuers list")
	return cmd
}

// policyEntry is the YAML of one pinned issuer, with the key inline, indented
// as an element of the list under issuers.
func policyEntry(w io.Writer, issuer, pem string) {
	name, _ := json.Marshal(issuer) // a string always marshals, and JSON is YAML
	fmt.Fprintf(w, "  - iss: %s\n    key: |\n", name)
	for line := range strings.Lines(pem) {
		io.WriteString(w, "      "+line)
	}
}

// readKey reads the PEM of a key that a flag or the context names.
func (a *app) readKey(name string) (string, []byte, error) {
	if name == "" {
		name = a.context.Key
	}
	if name == "" {
		return "", nil, usage("no signing key is known").try("scitt key generate -o key.pem, then add --key key.pem")
	}
	if variable, ok := strings.CutPrefix(name, "env://"); ok {
		if a.env(variable) == "" {
			return "", nil, usage("--key: the environment variable %s is empty", variable)
		}
		return name, []byte(a.env(variable)), nil
	}
	pem, err := os.ReadFile(name)
	if err != nil {
		return "", nil, usage("--key: %w", err)
	}
	return name, pem, nil
}

// signingKey reads a private key.
func (a *app) signingKey(name string) (crypto.Signer, error) {
	name, pem, err := a.readKey(name)
	if err != nil {
		return nil, err
	}
	key, err := cose.ParsePrivatePEM(pem)
	if err != nil {
		return nil, usage("--key %s: %w", name, err)
	}
	return key, nil
}

// publicKey reads a public key, or the public half of a private one.
func (a *app) publicKey(name string) (crypto.PublicKey, error) {
	name, pem, err := a.readKey(name)
	if err != nil {
		return nil, err
	}
	if public, err := cose.ParsePublic(pem); err == nil {
		return public.Public, nil
	}
	key, err := cose.ParsePrivatePEM(pem)
	if err != nil {
		return nil, usage("--key %s: %w", name, err)
	}
	return key.Public(), nil
}
