package client_test

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/scittd/scittd/client"
)

func TestATrustFileIsReadAsItWasWritten(t *testing.T) {
	var trust client.Trust
	old, current, other := newService(t, scitt), newService(t, scitt), newService(t, another)
	must(t, trust.Pin(scitt, old.keySet(), now))
	must(t, trust.Pin(scitt, append(current.keySet(), old.keySet()...), now))
	must(t, trust.Pin(another, other.keySet(), now))
	key := client.TrustedIssuer{Issuer: wabbit, Key: publicPEM(t, newKey(t))}
	for range 2 { // the same twice is once
		must(t, trust.TrustIssuer(key))
	}
	must(t, trust.TrustIssuer(client.TrustedIssuer{Issuer: wabbit, Roots: authority(t, "root", nil).pem(), SAN: "a@b.example", EKU: "emailProtection"}))
	if len(trust.Services) != 2 || len(trust.Services[0].Keys) != 2 || len(trust.Issuers) != 2 {
		t.Fatalf("pinned %+v", trust)
	}
	if set, err := trust.Services[0].KeySet(); err != nil || string(set[0].ID) != string(current.KeyID()) {
		t.Errorf("the newest key is not the first: %v", err)
	}

	file := filepath.Join(t.TempDir(), "deep", "trust.yaml")
	must(t, trust.Write(file))
	again, err := client.ReadTrust(file)
	if err != nil || !reflect.DeepEqual(trust, again) {
		t.Errorf("read %+v, %v\nwrote %+v", again, err, trust)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(file), ".new-*")); left != nil {
		t.Errorf("left behind: %v", left)
	}

	if again.Remove("https://nobody.example") || !again.Remove(wabbit) || len(again.Issuers) != 0 || !again.Remove(scitt) || len(again.Services) != 1 {
		t.Errorf("after removing: %+v", again)
	}
}

func TestATrustFileThatIsNotThereTrustsNobody(t *testing.T) {
	trust, err := client.ReadTrust(filepath.Join(t.TempDir(), "none.yaml"))
	if err != nil || len(trust.Services)+len(trust.Issuers) != 0 {
		t.Errorf("%+v, %v", trust, err)
	}
}

func TestATrustFileThatIsWrongIsRefused(t *testing.T) {
	var trust client.Trust
	must(t, trust.Pin(scitt, newService(t, scitt).keySet(), now))
	id := trust.Services[0].Keys[0].ID
	file := filepath.Join(t.TempDir(), "trust.yaml")
	must(t, trust.Write(file))
	text, err := os.ReadFile(file)
	must(t, err)
	good := string(text)
	flipped := "A" + id[1:]
	if flipped == id {
		flipped = "B" + id[1:]
	}
	for _, c := range []struct{ name, text, want string }{
		{"a thumbprint of another key", strings.Replace(good, id, flipped, 1), "its thumbprint is " + id},
		{"a key that is no base64", strings.Replace(good, "key: ", "key: '!' #", 1), "key " + id + " of " + scitt},
		{"a key that is none", strings.Replace(good, "key: ", "key: AAAA #", 1), "key " + id + " of " + scitt},
		{"an unknown member", good + "surprise: 1\n", "surprise"},
		{"an unknown member of a service", strings.Replace(good, "pinned:", "pined:", 1), "pined"},
		{"an issuer's key that is none", good + "issuers: [{issuer: https://a.example, key: junk}]\n", "https://a.example"},
		{"an issuer's private key", good + "issuers: [{issuer: https://a.example, key: \"-----BEGIN PRIVATE KEY-----\"}]\n", "https://a.example"},
		{"roots without a certificate", good + "issuers: [{issuer: https://a.example, roots: junk}]\n", "there is no certificate"},
		{"an issuer with nothing to verify by", good + "issuers: [{issuer: https://a.example}]\n", "want a key or roots"},
		{"an issuer without a name", good + "issuers: [{key: junk}]\n", "without a name"},
		{"no YAML", "\tservices", "trust.yaml"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.text == good {
				t.Fatal("nothing was changed")
			}
			must(t, os.WriteFile(file, []byte(c.text), 0o600))
			if _, err := client.ReadTrust(file); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("err %v, want %q", err, c.want)
			}
		})
	}
}

func TestAnUnknownKeyUsageIsRefusedWhenItIsTrusted(t *testing.T) {
	var trust client.Trust
	err := trust.TrustIssuer(client.TrustedIssuer{Issuer: wabbit, Roots: authority(t, "root", nil).pem(), EKU: "code-signing"})
	if err == nil || !strings.Contains(err.Error(), "codeSigning") {
		t.Errorf("err %v, want the names that there are", err)
	}
}
