package policy

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/scittd/scittd/statement"
)

func TestAClaimIsPlacedWhereNamedElseWhereSignedElseWhereMapped(t *testing.T) {
	w, a := newKey(t), newKey(t)
	o := newOperator(t)
	wi, ai := keyIssuer(wabbit, w), keyIssuer(acme, a)
	wi.Repositories = []string{"wabbit/*", "shared"}
	ai.Visibility = Private
	ai.Repositories = []string{"*"}
	doc := o.document(wi, ai)
	doc.Repositories = []Mapping{
		{Match: "net-monitor", To: "wabbit/net-monitor"}, {Match: "net-*", To: "mirror/net"}, {Match: "net-monitor", To: "wabbit/net-monitor"},
		{Match: "team/*", To: "mirror/team"},
	}
	p := bootstrap(t, o.publish(doc))
	const digest = "@sha256:b6c7e21200000000000000000000000000000000000000000000000000000001"
	const own = "registry.example:5000"
	for _, c := range []struct {
		sub, named, ownHost string
		want                []string
	}{
		{own + "/wabbit/app" + digest, "wabbit/app", own, []string{"wabbit/app"}},
		{"pkg:oci/net-monitor" + digest, "any/where", own, []string{"any/where"}},
		{"elsewhere.example/wabbit/app" + digest, "any/where", own, []string{"any/where"}},

		{own + "/wabbit/app" + digest, "", own, []string{"wabbit/app"}},
		{"oci://" + own + "/shared" + digest, "", own, []string{"shared"}},
		{"oci://Registry.Example:5000/shared" + digest, "", own, []string{"shared"}},
		{own + "/wabbit/deep/app" + digest, "", own, nil},
		{own + "/acme/app" + digest, "", own, nil},
		{own + "/team/app" + digest, "", own, []string{"mirror/team"}},
		{own + "/wabbit/app" + digest, "", "", nil},
		{own + "/wabbit/app" + digest, "", "registry.example", nil},

		{"pkg:oci/net-monitor" + digest, "", own, []string{"wabbit/net-monitor", "mirror/net"}},
		{"pkg:oci/net-probe" + digest, "", own, []string{"mirror/net"}},
		{"pkg:oci/net-monitor" + digest + "?repository_url=elsewhere.example/a/b", "", own, []string{"wabbit/net-monitor", "mirror/net"}},
		{"elsewhere.example/net-monitor" + digest, "", own, []string{"wabbit/net-monitor", "mirror/net"}},
		{"net-monitor", "", own, []string{"wabbit/net-monitor", "mirror/net"}},
		{"other", "", own, nil},
		{digest[1:], "", own, nil},
	} {
		got, err := p.Repositories(sign(t, wabbit, w, subject(c.sub)), c.named, c.ownHost)
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("sub %s, named %q, on %q: got %q, %v, want %q", c.sub, c.named, c.ownHost, got, err, c.want)
		}
		// Private claims, unknown issuers and operators' statements have no place.
		for _, s := range []*statement.Statement{
			sign(t, acme, a, subject(c.sub)), sign(t, "https://stranger.example", w, subject(c.sub)), sign(t, wabbit, a, subject(c.sub)),
			sign(t, service, o.key, subject(c.sub), mediaType(MediaType)),
		} {
			if got, err := p.Repositories(s, c.named, c.ownHost); err != nil || got != nil {
				t.Errorf("sub %s of %s: got %q, %v, want none", c.sub, s.Issuer, got, err)
			}
		}
	}
}

func TestSignedBytesThatNameAnotherRepositoryAreRefused(t *testing.T) {
	key := newKey(t)
	p := inForce(t, keyIssuer(wabbit, key))
	s := sign(t, wabbit, key, subject("registry.example/wabbit/app@sha256:b6c7e21200000000000000000000000000000000000000000000000000000001"))
	got, err := p.Repositories(s, "wabbit/other", "registry.example")
	var r *Refusal
	if !errors.As(err, &r) || got != nil {
		t.Fatalf("got %q, %v, want a refusal", got, err)
	}
	if r.Code != CodeRepositoryMismatch || r.Rule != "sub" || r.Hint == "" || r.Policy != p.Entry {
		t.Errorf("refused with %+v", r)
	}
}

func TestAClaimConcernsTheImagesThatItNamesOrAny(t *testing.T) {
	p := inForce(t, keyIssuer(wabbit, newKey(t)))
	one, two := statement.SHA256([]byte("one")), statement.SHA256([]byte("two"))
	for _, c := range []struct {
		artifacts []statement.Digest
		image     statement.Digest
		fits      bool
	}{
		{nil, "", true}, {nil, one, true}, {[]statement.Digest{one}, "", true}, {[]statement.Digest{one, two}, two, true},
		{[]statement.Digest{one}, two, false},
	} {
		err := p.Concerns(c.artifacts, c.image)
		var r *Refusal
		switch {
		case c.fits && err != nil:
			t.Errorf("%v for %s: %v", c.artifacts, c.image, err)
		case !c.fits && (!errors.As(err, &r) || r.Code != CodeSubjectMismatch || r.Policy != p.Entry || !strings.Contains(r.Reason, string(one)) || !strings.Contains(r.Reason, string(two))):
			t.Errorf("%v for %s: %v; want a refusal that names both", c.artifacts, c.image, err)
		}
	}
}
