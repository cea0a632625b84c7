package main

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/scittd/scittd/client"
	"github.com/scittd/scittd/internal/detcbor"
	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/statement"
)

// diagnostic is the format that shows CBOR as RFC 8949 §8 writes it.
const diagnostic = "cbor-diag"

func inspectCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "inspect FILE|ENTRY", Args: cobra.ExactArgs(1),
		Short: "Show what a statement or a receipt says; it never says that it is valid",
		Long:  "Show what a statement or a receipt says, as text, as JSON, or byte by byte with\n--format cbor-diag. Nothing is verified here.",
		RunE: func(cmd *cobra.Command, args []string) error {
			raw, err := a.fileOrEntry(cmd, args[0])
			if err != nil {
				return err
			}
			if a.format == diagnostic {
				return a.diagnose(args[0], raw)
			}
			// A receipt is a signed message with iss and sub as well, so it is tried first.
			r, notReceipt := receipts.Parse(raw)
			if notReceipt == nil {
				info := inspectedReceipt(r)
				return a.print("Receipt", info, func(w io.Writer) { info.text(w, "") })
			}
			s, notStatement := statement.Parse(raw)
			if notStatement != nil {
				// Other people's messages may be read, and are called what they are.
				if s, err = statement.ParseCOSE(raw); err != nil {
					return usage("%s is neither a Signed Statement (%w) nor a receipt (%w)", args[0], notStatement, notReceipt)
				}
				a.warn("not a Signed Statement: %v", notStatement)
			}
			info := inspected(s, len(raw))
			return a.print("SignedStatement", info, info.text)
		},
	}
}

// diagnose shows CBOR, and CBOR inside of byte strings, as it stands.
func (a *app) diagnose(name string, raw []byte) error {
	text, err := detcbor.Diagnose(raw)
	if err != nil {
		return usage("%s is not CBOR: %w", name, err)
	}
	return a.write([]byte(clean(text) + "\n"))
}

// fileOrEntry reads a file, or fetches the entry of that ID.
func (a *app) fileOrEntry(cmd *cobra.Command, name string) ([]byte, error) {
	raw, err := os.ReadFile(name)
	if err == nil {
		return raw, nil
	}
	id, notID := statement.ParseID(name)
	if notID != nil {
		return nil, usage("%w", err)
	}
	c, err := a.openService()
	if err != nil {
		return nil, err
	}
	raw, err = c.Transparent(cmd.Context(), id)
	if client.IsNotFound(err) {
		return nil, fail(exitEmpty, "no entry %s: %w", id, err)
	}
	return raw, err
}

// statementInfo is what a Signed Statement says.
type statementInfo struct {
	EntryID      statement.ID       `json:"entryId"`
	Size         int                `json:"size"`
	Algorithm    string             `json:"algorithm"`
	KeyID        string             `json:"kid,omitempty"`
	Issuer       string             `json:"issuer"`
	Subject      string             `json:"subject"`
	IssuedAt     time.Time          `json:"issuedAt,omitzero"`
	Expires      time.Time          `json:"expires,omitzero"`
	Form         string             `json:"form"` // attached, hash-envelope, detached
	MediaType    string             `json:"mediaType,omitempty"`
	Predicate    string             `json:"predicateType,omitempty"`
	Evidence     statement.Digest   `json:"evidence,omitempty"`
	Artifacts    []statement.Digest `json:"artifacts"`
	Certificates int                `json:"certificates"`
	Receipts     []receiptInfo      `json:"receipts"`
}

func inspected(s *statement.Statement, size int) statementInfo {
	info := statementInfo{
		EntryID: s.ID(), Size: size, Algorithm: s.Alg.String(), KeyID: kidText(s.KeyID),
		Issuer: s.Issuer, Subject: s.Subject, IssuedAt: s.IssuedAt, Expires: s.Expires,
		Form: "attached", MediaType: s.MediaType(), Predicate: s.PredicateType(), Evidence: s.Evidence(),
		Artifacts: []statement.Digest{}, Certificates: len(s.Chain), Receipts: []receiptInfo{},
	}
	switch {
	case s.Detached():
		info.Form = "detached"
	case s.Envelope != nil:
		info.Form = "hash-envelope"
	}
	artifacts, err := s.Artifacts([]statement.Extractor{statement.ExtractInToto, statement.ExtractSubject})
	if err == nil && artifacts != nil {
		info.Artifacts = artifacts
	}
	for _, raw := range s.Receipts {
		r, err := receipts.Parse(raw)
		if err != nil {
			info.Receipts = append(info.Receipts, receiptInfo{Unreadable: err.Error()})
			continue
		}
		info.Receipts = append(info.Receipts, inspectedReceipt(r))
	}
	return info
}

// kidText shows a kid as the rest of this program shows key ids: a thumbprint
// in base64url, text as it is, other bytes in hex.
func kidText(kid []byte) string {
	if len(kid) == 32 {
		return base64.RawURLEncoding.EncodeToString(kid)
	}
	for _, r := range string(kid) {
		if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
			return "hex:" + hex.EncodeToString(kid)
		}
	}
	return string(kid)
}

func (i statementInfo) text(w io.Writer) {
	fmt.Fprintf(w, "Signed Statement  %d bytes, not verified\n", i.Size)
	row := func(name, text string) {
		if text != "" {
			fmt.Fprintf(w, "  %-12s %s\n", name, clean(text))
		}
	}
	row("entry", i.EntryID.String())
	row("issuer", i.Issuer)
	row("subject", i.Subject)
	row("algorithm", i.Algorithm)
	row("kid", i.KeyID)
	if i.Certificates > 0 {
		row("x5chain", fmt.Sprintf("%d certificates", i.Certificates))
	}
	row("iat", stamp(i.IssuedAt))
	row("exp", stamp(i.Expires))
	row("payload", i.Form)
	row("media type", i.MediaType)
	row("predicate", i.Predicate)
	row("evidence", string(i.Evidence))
	for _, artifact := range i.Artifacts {
		row("about", string(artifact))
	}
	for _, r := range i.Receipts {
		r.text(w, "  ")
	}
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// receiptInfo is what a receipt says.
type receiptInfo struct {
	Service    string    `json:"service,omitempty"`
	Log        string    `json:"log,omitempty"`
	Algorithm  string    `json:"algorithm,omitempty"`
	KeyID      string    `json:"kid,omitempty"`
	IssuedAt   time.Time `json:"issuedAt,omitzero"`
	TreeSize   uint64    `json:"treeSize,omitempty"`
	LeafIndex  uint64    `json:"leafIndex,omitempty"`
	FromSize   uint64    `json:"fromSize,omitempty"` // of a consistency receipt
	Path       int       `json:"path,omitempty"`     // hashes
	Unreadable string    `json:"unreadable,omitempty"`
}

func inspectedReceipt(r *receipts.Receipt) receiptInfo {
	info := receiptInfo{Service: r.Issuer, Log: r.Subject, Algorithm: r.Alg.String(), KeyID: kidText(r.KeyID), IssuedAt: r.IssuedAt}
	if len(r.Proofs) > 0 {
		info.TreeSize, info.LeafIndex, info.Path = r.Proofs[0].TreeSize, r.Proofs[0].LeafIndex, len(r.Proofs[0].Path)
	} else if len(r.Consistency) > 0 {
		info.FromSize, info.TreeSize, info.Path = r.Consistency[0].From, r.Consistency[0].To, len(r.Consistency[0].Path)
	}
	return info
}

func (i receiptInfo) text(w io.Writer, indent string) {
	if i.Unreadable != "" {
		fmt.Fprintf(w, "%sReceipt  unreadable: %s\n", indent, clean(i.Unreadable))
		return
	}
	row := func(name, text string) { fmt.Fprintf(w, "%s  %-10s %s\n", indent, name, clean(text)) }
	fmt.Fprintf(w, "%sReceipt  not verified\n", indent)
	row("service", i.Service)
	row("log", i.Log)
	row("signature", fmt.Sprintf("%s  kid %s", i.Algorithm, i.KeyID))
	row("registered", stamp(i.IssuedAt))
	if i.FromSize > 0 {
		row("proof", fmt.Sprintf("growth from tree %d to tree %d, %d hashes", i.FromSize, i.TreeSize, i.Path))
		return
	}
	row("proof", fmt.Sprintf("leaf %d, tree %d, %d hashes", i.LeafIndex, i.TreeSize, i.Path))
}
