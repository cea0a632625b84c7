package interop

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// client is a program, or what stands for one, and what people do with it. A
// step may build upon those before it.
type client struct {
	name  string
	needs string // a program that go test does without; "" if none
	steps []step
}

type step struct {
	operation string
	do        func(v *visit) error
}

var clients = []client{crane, regctl, skopeo, cosign, orasGo, ggcr, docker, containerd, scitt, regctlRegisters}

// visit is one client at one site.
type visit struct {
	*cargo
	site *site
	dir  string // where it works
	repo string // "127.0.0.1:8080/interop/crane"
	done map[string]bool
}

// known are the operations that are known to fail, and why. One that succeeds
// after all fails the test, so that nothing stale is kept here.
var known = map[cell]string{
	{"docker (its requests)", "pull without a login", basic}: "the registry wants a login for everything, here as without the front",
	{"skopeo 1.9.3", "delete", inRAM}:                        "deleting an image by digest leaves its tags, here as without the front",
	{"containerd (its requests)", "resume a layer", inRAM}:   "no such range is served, here as without the front",
}

func TestClientsWorkThroughTheFront(t *testing.T) {
	for _, b := range backends {
		if b.needs != "" && !*fullFlag {
			continue
		}
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, b)
			for _, c := range clients {
				if c.needs != "" {
					if !*fullFlag {
						continue
					}
					theTable.tell(versionOf(c.needs))
				}
				t.Run(c.name, func(t *testing.T) { c.visit(t, s, b.name) })
			}
		})
	}
}

// visit runs all steps. Where one fails, those that need it fail for that.
func (c client) visit(t *testing.T, s *site, backend string) {
	dir := t.TempDir()
	cargo, err := newCargo(dir)
	if err != nil {
		t.Fatal(err)
	}
	program, _, _ := strings.Cut(c.name, " ")
	v := &visit{cargo: cargo, site: s, dir: dir, repo: s.host + "/interop/" + strings.ToLower(program), done: map[string]bool{}}
	for _, step := range c.steps {
		err := step.do(v)
		v.done[step.operation] = err == nil
		at := cell{c.name, step.operation, backend}
		why, expected := known[at]
		outcome := err
		if err != nil && expected {
			outcome = errors.New(why)
		}
		theTable.add(at, outcome)
		switch {
		case err != nil && expected:
			t.Logf("%s: %v", step.operation, err)
		case err != nil:
			t.Errorf("%s: %v", step.operation, err)
		case expected:
			t.Errorf("%v works after all", at)
		}
	}
}

// after is an error unless these operations have succeeded.
func (v *visit) after(operations ...string) error {
	for _, o := range operations {
		if !v.done[o] {
			return fmt.Errorf("not tried: %s failed", o)
		}
	}
	return nil
}

// run runs a program and returns what it printed.
func (v *visit) run(name string, args ...string) (string, error) {
	return output(v.site.command(v.dir, name, args...))
}

// words are those of a command line.
func words(line string) []string {
	w := strings.Fields(line)
	for i := range w {
		w[i] = strings.ReplaceAll(w[i], "&", " ")
	}
	return w
}

// prints is an error unless the command succeeds and prints want.
func (v *visit) prints(line, want string) error {
	w := words(line)
	out, err := v.run(w[0], w[1:]...)
	if err == nil && !strings.Contains(out, want) {
		return fmt.Errorf("%s %s printed no %q but %s", w[0], w[1], want, out)
	}
	return err
}

// refused is an error if the command succeeds.
func (v *visit) refused(line string) error {
	w := words(line)
	if out, err := v.run(w[0], w[1:]...); err == nil {
		return fmt.Errorf("%s %s succeeded and printed %s", w[0], w[1], out)
	}
	return nil
}

// pulled is an error unless the OCI layout in the folder name is what was pushed.
func (v *visit) pulled(name string) error {
	dir := filepath.Join(v.dir, name)
	got, err := held(dir)
	if err != nil {
		return err
	}
	if got != v.imageDigest {
		return fmt.Errorf("pulled %s, pushed %s", got, v.imageDigest)
	}
	for _, digest := range append(v.layers, v.config, v.imageDigest) {
		want, err := blob(v.image, digest)
		if err != nil {
			return err
		}
		got, err := blob(dir, digest)
		if err != nil {
			return err
		}
		if string(got) != string(want) {
			return fmt.Errorf("%s was pulled with other bytes", digest)
		}
	}
	return errors.Join(os.RemoveAll(dir))
}
