package fetch_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/scittd/scittd/internal/fetch"
)

func TestURLsThatAreNeverAsked(t *testing.T) {
	w := open(t, answering("{}"), nil)
	port := strings.TrimPrefix(w.url, "https://keys.example.com:")
	for _, url := range []string{
		"", "x", "/did.json", "//example.com/did.json", "https:", "https://", "https:///did.json", "https:example.com", "mailto:a@example.com",
		"http://example.com/", "HTTP://example.com/", "ftp://example.com/", "file:///etc/passwd", "gopher://example.com/", "data:application/json,{}",
		"jar:https://example.com!/", "unix:///var/run/docker.sock", "javascript:0",
		"https://user@example.com/", "https://user:secret@example.com/", "https://@example.com/", "https://example.com@127.0.0.1/",
		"https://example.com/#frag", "https://example.com/#", "https://example.com/ x", "https://example.com/\n", "https://example.com\\@127.0.0.1/",
		"https://example.com/\x00", "https://exämple.com/", "https://ex%61mple.com/", "https://%31%32%37.0.0.1/", "https://example.com%2f@127.0.0.1/",
		"https://example.com:/", "https://example.com:0/", "https://example.com:80/", "https://example.com:8443/", "https://example.com:99999/", "https://example.com:0443/", "https://example.com:https/",
		"https://localhost/", "https://metadata/", "https://intranet/", "https://example.com./", "https://-example.com/", "https://exa mple.com/",
		"https://127.0.0.1:" + port + "/", "https://localhost:" + port + "/", "https://keys.example.com:1/", "http://keys.example.com:" + port + "/",
		"https://127.1/", "https://2130706433/", "https://0x7f000001/", "https://0x7f.1/", "https://017700000001/", "https://0177.0.0.1/", "https://127.0.0.1./", "https://1.2.3.4.5/",
		"https://[::1/", "https://::1/", "https://[fe80::1%25eth0]/", "https://[0:0:0:0:0:0:0:1]/", "https://[::ffff:7f00:1]/", "https://[::FFFF:127.0.0.1]:x/",
		"https://" + strings.Repeat("a", 64) + ".com/", "https://" + strings.Repeat("a.", 127) + "com/", "https://example.com/" + strings.Repeat("a", 2048),
	} {
		page, err := w.fetcher.Get(t.Context(), url, "application/json")
		if !errors.Is(err, fetch.ErrForbidden) {
			t.Errorf("%.80q: %q, %v; want ErrForbidden", url, page.Body, err)
		}
	}
	if w.hits.Load() != 0 || len(w.names.asked) != 0 {
		t.Errorf("%d requests, names asked %q; want none", w.hits.Load(), w.names.asked)
	}
}

func TestAddressesThatAreNeverDialled(t *testing.T) {
	for _, address := range []string{
		"127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.1.1",
		"100.64.0.1", "100.127.255.255", "100.100.100.200", "169.254.169.254", "169.254.0.1", "192.0.0.1", "192.0.0.192", "192.0.2.1",
		"198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1", "192.88.99.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "168.63.129.16",
		"::", "::1", "fe80::1", "fec0::1", "fc00::1", "fd00::1", "fd00:ec2::254", "fd20:ce::254", "ff02::1", "ff0e::1",
		"::7f00:1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::1", "2001:0:7f00:1::1", "2001:db8::1", "3fff::1", "100::1", "5f00::1", "4000::1",
		"2600::5efe:7f00:1", "2600::200:5efe:a00:1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:10.0.0.1",
		"8.8.8.8 127.0.0.1", "2606:4700::1111 ::1", "1.1.1.1 10.0.0.1 8.8.8.8",
	} {
		w := open(t, answering("{}"), nil)
		w.names.known["example.com"] = []string{address}
		if _, err := w.fetcher.Get(t.Context(), "https://example.com/x", "application/json"); !errors.Is(err, fetch.ErrForbidden) {
			t.Errorf("a host at %s: %v, want ErrForbidden", address, err)
		}
		if strings.ContainsAny(address, " ") || strings.HasPrefix(address, "::ffff") {
			continue // a list, and what only a resolver writes like that
		}
		literal := "https://" + address + "/x"
		if strings.Contains(address, ":") {
			literal = "https://[" + address + "]/x"
		}
		if _, err := w.fetcher.Get(t.Context(), literal, "application/json"); !errors.Is(err, fetch.ErrForbidden) {
			t.Errorf("%s: %v, want ErrForbidden", literal, err)
		}
	}
}

func TestSomeAddressesAreNotDialledForAnyHost(t *testing.T) {
	for _, address := range []string{
		"0.0.0.0", "169.254.169.254", "224.0.0.1", "255.255.255.255", "100.100.100.200", "168.63.129.16", "192.0.0.192",
		"::", "fe80::1", "ff02::1", "fd00:ec2::254", "64:ff9b::7f00:1", "2002:7f00:1::1",
	} {
		w := open(t, answering("{}"), nil)
		w.names.known["keys.example.com"] = []string{address}
		if _, err := w.get(t, "/x"); !errors.Is(err, fetch.ErrForbidden) {
			t.Errorf("a private host at %s: %v, want ErrForbidden", address, err)
		}
	}
}

func TestTheAddressThatWasCheckedIsTheOneThatIsDialled(t *testing.T) {
	// A name that means the server when it is looked at, and something else from
	// then on.
	w := open(t, answering("{}"), nil)
	w.names.known["keys.example.com"] = []string{"127.0.0.1", "127.0.0.9"}
	if _, err := w.get(t, "/x"); err != nil {
		t.Error(err)
	}
	if len(w.names.asked) != 1 {
		t.Errorf("names asked %q; want one look at the name", w.names.asked)
	}
}

func TestOneAddressThatDoesNotAnswerLeavesTimeForAnother(t *testing.T) {
	w := open(t, answering("{}"), nil)
	w.names.known["keys.example.com"] = []string{"127.0.0.9 ::1 127.0.0.1"} // nobody listens at the first two
	if _, err := w.get(t, "/x"); err != nil {
		t.Error(err)
	}
}

func TestOnlyConfiguredHostsAreAskedWhenThereAreSome(t *testing.T) {
	w := open(t, answering("{}"), func(o *fetch.Options) { o.Hosts = []string{"Issuer.Example.com", "issuer.example.com:8443"} })
	for url, want := range map[string]error{
		"https://other.example.com/x":       fetch.ErrForbidden,
		"https://issuer.example.com:9443/x": fetch.ErrForbidden,
		"https://x.issuer.example.com/x":    fetch.ErrForbidden,
		"https://issuer.example.com/x":      fetch.ErrUnavailable, // nobody there
		"https://ISSUER.example.com/x":      fetch.ErrUnavailable,
		"https://issuer.example.com:8443/x": fetch.ErrUnavailable,
		w.url + "/x":                        nil,
	} {
		if _, err := w.fetcher.Get(t.Context(), url, "application/json"); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", url, err, want)
		}
	}
	for _, host := range w.names.asked {
		// No search list of this machine makes another name of a public one.
		if !strings.HasSuffix(host, ".") && host != "keys.example.com" {
			t.Errorf("asked for the name %s", host)
		}
	}
}

func TestHostsThatCannotBeConfigured(t *testing.T) {
	for _, host := range []string{"", "https://example.com", "example.com/x", "example.com:0", "example.com:x", "*.example.com", "::1", "a@b", "[::ffff:127.0.0.1]x", "127.1"} {
		if f, err := fetch.New(fetch.Options{Hosts: []string{host}}); err == nil {
			f.Close()
			t.Errorf("%q was taken for a host", host)
		}
		if f, err := fetch.New(fetch.Options{Private: []string{host}}); err == nil {
			f.Close()
			t.Errorf("%q was taken for a private host", host)
		}
	}
}
