package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The example policies do what their cases say; each has some that it admits and
// some that it refuses, by every rule that it names.
func TestTheExamplePoliciesDoWhatTheirCasesSay(t *testing.T) {
	t.Parallel()
	folders, err := filepath.Glob("../../deploy/policies/*/" + policyFile)
	if err != nil || len(folders) != 5 {
		t.Fatalf("found %d example policies, want 5: %v", len(folders), err)
	}
	for _, file := range folders {
		folder := filepath.Dir(file)
		results, err := tryPolicy(t.Context(), folder)
		if err != nil {
			t.Errorf("%s: %v", folder, err)
			continue
		}
		outcomes := map[string]int{}
		for _, r := range results {
			outcomes[r.outcome()]++
			if !r.passed() {
				t.Errorf("%s: %s: want %s by %s, got %s by %s", folder, r.name, r.Want, r.Rule, r.outcome(), r.rule())
			}
			text, err := os.ReadFile(filepath.Join(folder, casesFolder, r.name+".yaml"))
			if err != nil || r.Rule == "" || !bytes.Contains(text, []byte("\ntime: ")) {
				t.Errorf("%s: %s says no time or no rule, so that it may mean something else tomorrow (%v)", folder, r.name, err)
			}
		}
		if outcomes["allow"] == 0 || outcomes["deny"] < 3 {
			t.Errorf("%s: %v are too few cases", folder, outcomes)
		}
	}
}

// Nothing that is meant to be secret lies beside the policies.
func TestOnlyExampleKeysLieBesideTheExamplePolicies(t *testing.T) {
	t.Parallel()
	private, err := filepath.Glob("../../deploy/policies/*/*.pem")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range private {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		named := strings.HasPrefix(filepath.Base(file), "example-") && filepath.Base(filepath.Dir(file)) == "testdata"
		if bytes.Contains(b, []byte("PRIVATE KEY")) != named {
			t.Errorf("%s: private keys, and only those, are testdata/example-*.pem", file)
		}
	}
}
