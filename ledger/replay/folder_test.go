package replay_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/replay"
	"github.com/scittd/scittd/statement"
)

func TestADownloadGoesOnWhereItWasCutOff(t *testing.T) {
	_, h := story(t)
	whole := filepath.Join(t.TempDir(), "whole")
	h.save(t, whole, 4)
	for _, name := range []string{"heads.cbor", "statements.cbor", "decisions.cbor"} {
		b, err := os.ReadFile(filepath.Join(whole, name))
		if err != nil {
			t.Fatal(err)
		}
		for cut := 0; cut < len(b); cut += 1 + len(b)/23 {
			dir := filepath.Join(t.TempDir(), fmt.Sprintf("cut at %d", cut))
			if err := os.CopyFS(dir, os.DirFS(whole)); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(filepath.Join(dir, name), int64(cut)); err != nil {
				t.Fatal(err)
			}
			if _, err := replay.OpenFolder(dir); !errors.Is(err, replay.ErrIncomplete) {
				t.Fatalf("%s cut at %d: %v", name, cut, err)
			}
			h.goOn(t, dir)
			f, err := replay.OpenFolder(dir)
			if err != nil {
				t.Fatalf("%s cut at %d and continued: %v", name, cut, err)
			}
			if report, found := run(t, f, replay.Options{}); len(found) > 0 || report.Replayed != 10 {
				t.Errorf("%s cut at %d and continued: %+v, %v", name, cut, report, found)
			}
			f.Close()
		}
	}
}

// goOn adds what a folder lacks.
func (h *held) goOn(t *testing.T, dir string) {
	t.Helper()
	d, err := replay.NewDownload(dir, "https://scitt.example")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for _, head := range h.heads {
		if head.Size > d.Head().Size {
			if err := d.AddHeads([]ledger.Head{head}); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, e := range h.entries[d.Statements():] {
		if _, err := d.AddStatements(ledger.Leaf{Index: e.Index, Canonical: e.Canonical}.AppendCBOR(nil)); err != nil {
			t.Fatal(err)
		}
	}
	for _, e := range h.entries[d.Decided():] {
		if _, err := d.AddDecisions(ledger.AppendDecided(nil, []ledger.Decided{e.Decided})); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAFolderOfSomethingElseIsRefused(t *testing.T) {
	_, h := story(t)
	dir := filepath.Join(t.TempDir(), "log")
	h.save(t, dir, 10)
	if _, err := replay.NewDownload(dir, "https://other.example"); !errors.Is(err, replay.ErrFolder) {
		t.Errorf("a folder of another service: %v", err)
	}
	busy := t.TempDir()
	if err := os.WriteFile(filepath.Join(busy, "notes.txt"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := replay.NewDownload(busy, "https://scitt.example"); !errors.Is(err, replay.ErrFolder) {
		t.Errorf("a folder with other files: %v", err)
	}
	if _, err := replay.OpenFolder(t.TempDir()); !errors.Is(err, replay.ErrFolder) {
		t.Errorf("an empty folder: %v", err)
	}
	for name, spoil := range map[string]func(b []byte) []byte{
		"statements.cbor": func(b []byte) []byte { return append(b, b...) },
		"decisions.cbor":  func(b []byte) []byte { return append(b, 0x82, 0x00, 0x40) },
		"heads.cbor":      func(b []byte) []byte { return append(b, 0x80) },
	} {
		copied := filepath.Join(t.TempDir(), "log")
		if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(copied, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(copied, name), spoil(b), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := replay.OpenFolder(copied); !errors.Is(err, replay.ErrFolder) {
			t.Errorf("%s with an item that does not belong there: %v", name, err)
		}
	}
}

// A folder may be somebody else's making.
func TestAFolderIsReadWithoutLeavingIt(t *testing.T) {
	_, h := story(t)
	whole := filepath.Join(t.TempDir(), "log")
	h.save(t, whole, 10)
	names := []string{"log", "heads.cbor", "statements.cbor", "decisions.cbor", "receipts.cbor"}
	for _, name := range names {
		dir := filepath.Join(t.TempDir(), "log")
		if err := os.CopyFS(dir, os.DirFS(whole)); err != nil {
			t.Fatal(err)
		}
		outside := filepath.Join(t.TempDir(), "precious")
		if err := errors.Join(os.Rename(filepath.Join(dir, name), outside), os.Symlink(outside, filepath.Join(dir, name))); err != nil {
			t.Fatal(err)
		}
		if _, err := replay.OpenFolder(dir); !errors.Is(err, replay.ErrFolder) {
			t.Errorf("%s is a link, opened: %v", name, err)
		}
		if _, err := replay.NewDownload(dir, "https://scitt.example"); !errors.Is(err, replay.ErrFolder) {
			t.Errorf("%s is a link, to go on with: %v", name, err)
		}
	}
	d, err := replay.NewDownload(whole, "https://scitt.example")
	if err != nil {
		t.Fatal(err)
	}
	content, outside := []byte("a hostile service's"), filepath.Join(t.TempDir(), "precious")
	half := filepath.Join(whole, "evidence", strings.Replace(string(statement.SHA256(content)), ":", "-", 1))
	if err := errors.Join(os.WriteFile(outside, []byte("mine"), 0o644), os.Symlink(outside, half+".part"), d.AddEvidence(statement.SHA256(content), content), d.Close()); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(outside); string(b) != "mine" {
		t.Errorf("a file that evidence was linked to has become %q, %v", b, err)
	}
	if err := os.Remove(half); err != nil {
		t.Fatal(err)
	}
	evidence, err := filepath.Glob(filepath.Join(whole, "evidence", "*"))
	if err != nil || len(evidence) != 1 {
		t.Fatal(evidence, err)
	}
	if err := os.Truncate(evidence[0], 1<<40); err != nil {
		t.Fatal(err)
	}
	f, err := replay.OpenFolder(whole)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := replay.Run(t.Context(), f, replay.Options{}); !errors.Is(err, replay.ErrFolder) {
		t.Errorf("evidence of 1 TiB: %v", err)
	}
}
