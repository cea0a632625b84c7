package interop

import (
	"debug/buildinfo"
	"errors"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/scittd/scittd/internal/testenv"
)

// backend is a registry behind the front. Each asks for credentials in another
// way.
type backend struct {
	name  string
	needs string // a program that go test does without; "" if none
	start func(t *testing.T) upstream
}

// upstream is a backend that runs.
type upstream struct {
	host           string // "": embedded
	user, password string // that may push; "": everybody may
	settings       []string
}

var front = []string{"--registry-front", "in-front"}

var backends = []backend{
	{"embedded (scittd's tokens)", "", func(*testing.T) upstream { return upstream{} }},
	{basic, "", func(t *testing.T) upstream {
		users := readable(t, htpasswd)
		host := testenv.RegistryOf(t, "docker-registry", "auth:\n  htpasswd: {realm: interop, path: "+users+"}\n")
		theTable.tell(versionOf("docker-registry"))
		return upstream{host, user, password, front}
	}},
	{inRAM, "", func(t *testing.T) upstream {
		s := httptest.NewServer(registry.New(registry.WithReferrersSupport(true), registry.Logger(log.New(io.Discard, "", 0))))
		t.Cleanup(s.Close)
		return upstream{strings.TrimPrefix(s.URL, "http://"), "", "", front}
	}},
	{"distribution v3.1.2 (token service)", "registry", func(t *testing.T) upstream {
		tokens, auth := tokenService(t)
		host := testenv.RegistryOf(t, "registry", auth)
		theTable.tell(versionOf("registry"))
		return upstream{host, user, password, append(front[:2:2], "--registry-token-hosts", tokens)}
	}},
}

const (
	basic = "docker-registry 2.8.2 (basic)"
	inRAM = "go-containerregistry with referrers (open)"
)

const (
	user, password = "interop", "correct horse"
	htpasswd       = "interop:$2a$04$7ujT5huKKlOv0Ld090qpjeDOGrdlnssH5l6QbRBwzQ7fwRMq9DKKG\n"
)

// readable writes a file that the user can read as whom registries run.
func readable(t *testing.T, text string) (path string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "scittd-interop-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path = filepath.Join(dir, "file")
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
	return path
}

// versionOf is what a program was built from or, if that is not recorded, the first
// line that it says of itself.
func versionOf(program string) string {
	path, err := exec.LookPath(program)
	if err != nil {
		return err.Error()
	}
	if info, err := buildinfo.ReadFile(path); err == nil && strings.HasPrefix(info.Main.Version, "v") {
		return "`" + info.Path + "` " + info.Main.Version
	}
	out, err := exec.Command(path, "--version").CombinedOutput()
	if err != nil {
		return program + ": " + err.Error()
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return line
}
