package main

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

func TestTheClientLinksNoServerCode(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	deps := strings.Fields(string(out))
	if len(deps) < 100 {
		t.Fatalf("go list -deps names only %d packages", len(deps))
	}
	for _, dep := range deps {
		for _, banned := range []string{
			"github.com/jackc/pgx", "modernc.org/sqlite", "github.com/go-chi/chi", "cel.dev/", "github.com/google/cel-go",
			"github.com/scittd/scittd/policy", "github.com/scittd/scittd/ledger", "github.com/scittd/scittd/storage/embedded",
			"github.com/scittd/scittd/internal/registrar", "github.com/rogpeppe/",
		} {
			if strings.HasPrefix(dep, banned) {
				t.Errorf("scitt links %s", dep)
			}
		}
		if dep == "github.com/scittd/scittd/api" {
			t.Errorf("scitt links %s", dep)
		}
	}
}

func TestTheBinariesKeepTheirBudgets(t *testing.T) {
	for name, limit := range map[string]int64{"scitt": 12 << 20, "scittd": 38 << 20} {
		file := filepath.Join(tools, name)
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() > limit {
			t.Errorf("%s has %d bytes, want at most %d", name, info.Size(), limit)
		}
		if runtime.GOOS != "linux" {
			continue
		}
		binary, err := elf.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		libraries, err := binary.ImportedLibraries()
		if err != nil || len(libraries) > 0 {
			t.Errorf("%s is not static: %v, %v", name, libraries, err)
		}
		binary.Close()
	}
}
