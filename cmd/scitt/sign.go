package main

import (
	"crypto"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/scittd/scittd/statement"
)

// signing are the flags of commands that make a statement.
type signing struct {
	key, issuer, chain, sub, kid  string
	evidence, mediaType, envelope string
	claims                        []string
	expires                       string
	issuedAt                      bool
}

func (s *signing) addFlags(f *pflag.FlagSet) {
	f.StringVar(&s.evidence, "evidence", "", "file to make the claim with: an SBOM, a build claim, a scan result")
	f.StringVar(&s.mediaType, "media-type", "", "what the evidence is (default: recognised from its content)")
	f.StringVar(&s.key, "key", "", "private key: a PEM file or env://VARIABLE")
	f.StringVar(&s.issuer, "issuer", "", "who makes the claim: iss")
	f.StringVar(&s.chain, "cert-chain", "", "certificates of the key, leaf first, PEM; the leaf's SAN URI is the issuer")
	f.StringVar(&s.kid, "kid", "", "what the service's policy or a key set calls the key, text or hex:... (default: its thumbprint)")
	f.StringVar(&s.sub, "sub", "", "SCITT subject (default: the artifact, without its location)")
	f.StringVar(&s.envelope, "hash-envelope", "auto", "sign the evidence's hash instead of its bytes: auto (above 64 KiB), always, never")
	f.StringArrayVar(&s.claims, "claim", nil, "further signed claim: name=text, or name:=value for an integer, true or false")
	f.StringVar(&s.expires, "expires", "", "end of validity, RFC 3339 or a duration from now")
	f.BoolVar(&s.issuedAt, "iat", false, "sign the time too; every run then makes another statement")
}

// signed is a statement with what it was made of.
type signed struct {
	statement *statement.Statement
	bytes     []byte // as to be submitted
	evidence  evidence
	envelope  bool // the evidence is not in the statement
}

// sign makes the statement that flags and context describe. Same input, same
// bytes, unless --iat or a relative --expires is given.
func (a *app) sign(about subject, s signing) (signed, error) {
	var out signed
	key, err := a.signingKey(s.key)
	if err != nil {
		return out, err
	}
	if out.evidence, err = readEvidence(s.evidence, s.mediaType); err != nil {
		return out, err
	}
	t := statement.Template{Issuer: s.issuer, Subject: s.sub, ContentType: out.evidence.mediaType}
	if t.Issuer == "" {
		t.Issuer = a.context.Issuer
	}
	if t.Issuer == "" {
		return out, usage("no issuer is known").try("add --issuer https://wabbit.example")
	}
	if t.Subject == "" {
		t.Subject = about.name
	}
	if out.envelope, err = useEnvelope(s.envelope, out.evidence); err != nil {
		return out, err
	}
	if out.envelope {
		t.HashAlg, t.Payload = -16, out.evidence.digest.Bytes() // SHA-256, RFC 9054
	} else if t.Payload, err = os.ReadFile(out.evidence.file); err != nil {
		return out, err
	}
	if s.kid != "" {
		if t.KeyID, err = keyID(s.kid); err != nil {
			return out, err
		}
	}
	if s.chain != "" {
		if t.Chain, err = a.readChain(s.chain, key, t.Issuer); err != nil {
			return out, err
		}
	}
	if err := s.complete(&t, time.Now()); err != nil {
		return out, err
	}
	if out.bytes, err = statement.Sign(t, key); err != nil {
		return out, usage("sign: %w", err)
	}
	out.statement, err = statement.Parse(out.bytes)
	return out, err
}

// readChain reads certificates, of which the first must be the key's. That it
// names the issuer is the service's policy to ask, and usual.
func (a *app) readChain(file string, key crypto.Signer, issuer string) ([][]byte, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, usage("--cert-chain: %w", err)
	}
	var chain [][]byte
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			chain = append(chain, block.Bytes)
		}
	}
	if len(chain) == 0 {
		return nil, usage("--cert-chain %s holds no certificate", file)
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return nil, usage("--cert-chain %s: %w", file, err)
	}
	if public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(leaf.PublicKey) {
		return nil, usage("--cert-chain %s: its first certificate, %q, is not of the signing key", file, leaf.Subject.CommonName).
			try("put the key's own certificate first, then each one's issuer")
	}
	named := false
	for _, uri := range leaf.URIs {
		named = named || uri.String() == issuer
	}
	if !named {
		a.warn("the certificate has no SAN URI %s: a service's policy must say that it may speak so", issuer)
	}
	return chain, nil
}

// complete adds claims and times.
func (s signing) complete(t *statement.Template, now time.Time) error {
	for _, claim := range s.claims {
		name, text, ok := strings.Cut(claim, "=")
		name, typed := strings.CutSuffix(name, ":")
		if !ok || name == "" {
			return usage("--claim %q is neither name=text nor name:=value", claim)
		}
		var value any = text
		if typed {
			if value, ok = typedClaim(text); !ok {
				return usage("--claim %q: %q is no integer, true or false", claim, text).try("--claim %s=%s signs it as text", name, text)
			}
		}
		if t.Claims == nil {
			t.Claims = map[any]any{}
		}
		t.Claims[name] = value
	}
	if s.issuedAt {
		t.IssuedAt = now.Truncate(time.Second)
	}
	if s.expires == "" {
		return nil
	}
	d, err := time.ParseDuration(s.expires)
	if t.Expires = now.Add(d).Truncate(time.Second); err == nil {
		return nil
	}
	if t.Expires, err = time.Parse(time.RFC3339, s.expires); err != nil {
		return usage("--expires %q is neither a duration nor an RFC 3339 time", s.expires)
	}
	return nil
}

// keyID reads a kid as policies write one: text, or bytes as hex:...
func keyID(text string) ([]byte, error) {
	digits, ok := strings.CutPrefix(text, "hex:")
	if !ok {
		return []byte(text), nil
	}
	kid, err := hex.DecodeString(digits)
	if err != nil || len(kid) == 0 {
		return nil, usage("--kid %q: hex: must be followed by pairs of hex digits", text)
	}
	return kid, nil
}

// typedClaim reads what stands behind :=, JSON that no two readers take differently:
// an integer, true or false.
func typedClaim(text string) (any, bool) {
	switch text {
	case "true", "false":
		return text == "true", true
	}
	n, err := strconv.ParseInt(text, 10, 64)
	return n, err == nil && strconv.FormatInt(n, 10) == text
}

// useEnvelope decides whether the statement carries the evidence or its hash.
func useEnvelope(mode string, e evidence) (bool, error) {
	switch mode {
	case "always":
		return true, nil
	case "auto":
		return e.size > attachLimit, nil
	case "never":
		if e.size > statement.MaxSize/2 {
			return false, usage("%s has %s, too much for a statement", e.file, human(e.size)).try("leave out --hash-envelope never")
		}
		return false, nil
	}
	return false, usage("--hash-envelope %q is none of auto, always, never", mode)
}

func signCommand(a *app) *cobra.Command {
	var s signing
	var dryRun bool
	cmd := &cobra.Command{
		Use:     "sign SUBJECT --evidence FILE [-o FILE]",
		Short:   "Make a Signed Statement about an artifact; nothing is sent",
		Long:    "Make a Signed Statement about an artifact and write it to a file, claim.cose\nunless -o names one. Nothing is sent; an image is looked up in its registry.",
		Example: "  scitt sign sha256:9f86... --evidence sbom.spdx.json --key release.pem --issuer https://wabbit.example -o claim.cose",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			about, err := a.subject(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			a.warnMoving(about)
			out, err := a.sign(about, s)
			if err != nil {
				return err
			}
			if dryRun {
				info := inspected(out.statement, len(out.bytes))
				return a.report("SignedStatement", info, info.text)
			}
			file, err := a.save(out.bytes, "claim.cose")
			if err != nil {
				return err
			}
			return a.report("SignedStatement", inspected(out.statement, len(out.bytes)), func(w io.Writer) {
				fmt.Fprintf(w, "Signed  %s  entry %s  about %s\n", file, out.statement.ID(), clean(out.statement.Subject))
			})
		},
	}
	s.addFlags(cmd.Flags())
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "show the statement and write nothing")
	return cmd
}
