package front_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/scittd/scittd/storage"
	"github.com/scittd/scittd/storage/embedded"
	"github.com/scittd/scittd/storage/front"
)

// notary is a PushService that judges by what a statement begins with, and
// checks that it is used as promised.
type notary struct {
	t *testing.T

	mu         sync.Mutex
	judged     int
	registered []front.Pushed
	refused    []front.PushRefusal
	stored     func(manifest string) bool // is a manifest in the registry?
	down       bool                       // registering fails
	waits      bool                       // nothing is ever placed
	later      bool                       // a stricter policy comes between judging and registering
}

var errDown = errors.New("the log is away")

func (n *notary) Detached(b []byte) bool { return bytes.HasPrefix(b, []byte("detached")) }

func (n *notary) verdict(p front.Pushed) error {
	word, _, _ := strings.Cut(string(p.Statement), " ")
	switch word {
	case "good":
		return nil
	case "detached":
		if p.Payload == nil && p.Evidence == "" {
			return &front.PushRefusal{Code: "payload-missing", Rule: "payload", Reason: "no payload"}
		}
		if p.Payload != nil && digest.FromBytes(p.Payload).String() != p.Evidence {
			n.t.Errorf("payload %s is named %s", digest.FromBytes(p.Payload), p.Evidence)
		}
		return nil
	case "refused":
		return &front.PushRefusal{Code: "unknown-issuer-key", Rule: "issuers", Reason: `issuer "mallory" is not in the policy`, Hint: "ask", Policy: "77c0"}
	case "elsewhere":
		return &front.PushRefusal{Code: "repository-mismatch", Rule: "sub", Reason: "sub names repository b, not a", Malformed: true}
	}
	return &front.PushRefusal{Code: "malformed-request", Reason: "not a statement", Malformed: true}
}

func (n *notary) Judge(_ context.Context, p front.Pushed) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.judged++; n.down {
		return errDown
	}
	return n.verdict(p)
}

func (n *notary) Register(_ context.Context, p front.Pushed) (string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.judged == 0 || n.stored != nil && !n.stored(p.Manifest) {
		n.t.Errorf("%s is registered before it is judged and stored", p.Manifest)
	}
	if n.down {
		return "", errDown
	}
	if n.later {
		return "", &front.PushRefusal{Code: "rejected", Rule: "deny[0]", Reason: "not any more"}
	}
	if err := n.verdict(p); err != nil {
		return "", err
	}
	n.registered = append(n.registered, p)
	return "e" + fmt.Sprint(len(n.registered)), nil
}

func (n *notary) Refused(_ context.Context, p front.Pushed, why *front.PushRefusal) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.refused = append(n.refused, *why)
	return nil
}

func (n *notary) Placed(ctx context.Context, p front.Pushed, entry string) {
	if n.waits {
		<-ctx.Done()
	}
}

func (n *notary) counts() (registered, refused int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.registered), len(n.refused)
}

// pushing is a front with a notary, over an embedded registry in the process or
// behind a proxy.
type pushing struct {
	*testing.T
	*notary
	url    string
	image  string // digest of an image in app/x
	config ocispec.Descriptor
}

func newPushing(t *testing.T, proxied bool, mode string, change func(*front.PushConfig)) *pushing {
	t.Helper()
	n := &notary{t: t}
	c := front.PushConfig{Service: n, Mode: func(string) string { return mode }, Wait: time.Millisecond}
	if change != nil {
		change(&c)
	}
	config := front.Config{ManifestPut: []front.Hook{front.Pushes(c)}}
	if proxied {
		r, err := embedded.Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Close() })
		u, err := front.OpenUpstream(front.UpstreamConfig{Host: hostOf(listen(t, r.Handler())), PlainHTTP: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(u.Close)
		config.Upstream = u
		config.Vouched = func(r *http.Request, _ bool) *http.Request { return r }
	}
	p := &pushing{T: t, notary: n}
	if proxied {
		p.url = listen(t, front.New(config))
	} else {
		p.url = serve(t, config)
	}
	a := p.put(p.manifest("a/b", nil, nil))
	if a.status != 201 {
		t.Fatalf("push the image: %d %s", a.status, a.body)
	}
	p.image = a.header.Get("Docker-Content-Digest")
	n.stored = func(manifest string) bool {
		return do(t, "HEAD", p.url+"/v2/app/x/manifests/"+manifest, "", "").status == 200
	}
	return p
}

// blob pushes content.
func (p *pushing) blob(content, mediaType string) ocispec.Descriptor {
	p.Helper()
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromString(content), Size: int64(len(content))}
	a := do(p.T, "POST", p.url+"/v2/app/x/blobs/uploads/?digest="+d.Digest.String(), content, "", "Content-Type: application/octet-stream")
	if a.status != 201 {
		p.Fatalf("push a blob: %d %s", a.status, a.body)
	}
	return d
}

func (p *pushing) statement(text string) ocispec.Descriptor {
	p.Helper()
	return p.blob(text, storage.StatementType)
}

// manifest is one with the empty config, which is pushed.
func (p *pushing) manifest(artifactType string, subject *ocispec.Descriptor, annotations map[string]string, layers ...ocispec.Descriptor) []byte {
	p.Helper()
	if p.config.Size == 0 {
		p.config = p.blob("{}", ocispec.MediaTypeEmptyJSON)
	}
	if layers == nil {
		layers = []ocispec.Descriptor{p.config}
	}
	b, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: artifactType,
		Config: p.config, Layers: layers, Subject: subject, Annotations: annotations,
	})
	if err != nil {
		p.Fatal(err)
	}
	return b
}

func (p *pushing) put(manifest []byte) answer {
	p.Helper()
	return do(p.T, "PUT", p.url+"/v2/app/x/manifests/"+digest.FromBytes(manifest).String(), string(manifest), "", "Content-Type: "+ocispec.MediaTypeImageManifest)
}

func (p *pushing) subject() *ocispec.Descriptor {
	return &ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.Digest(p.image), Size: 1}
}

// submit pushes a statement as a referrer of the image.
func (p *pushing) submit(text string, layers ...ocispec.Descriptor) ([]byte, answer) {
	p.Helper()
	m := p.manifest(storage.StatementType, p.subject(), nil, append([]ocispec.Descriptor{p.statement(text)}, layers...)...)
	return m, p.put(m)
}

func (p *pushing) has(manifest []byte) bool {
	p.Helper()
	return do(p.T, "HEAD", p.url+"/v2/app/x/manifests/"+digest.FromBytes(manifest).String(), "", "").status == 200
}

// bothWays runs a test before the embedded registry and before an upstream.
func bothWays(t *testing.T, run func(t *testing.T, proxied bool)) {
	for name, proxied := range map[string]bool{"embedded": false, "upstream": true} {
		t.Run(name, func(t *testing.T) { run(t, proxied) })
	}
}

func TestAPushedStatementIsRegisteredOnceItIsStored(t *testing.T) {
	bothWays(t, func(t *testing.T, proxied bool) {
		p := newPushing(t, proxied, front.PushObserve, nil)
		for i, push := range []func() ([]byte, answer){
			func() ([]byte, answer) { return p.submit("good one") },
			func() ([]byte, answer) { return p.submit("good two", p.blob("an sbom", "application/spdx+json")) },
			func() ([]byte, answer) { // OCI 1.0: the type is the config's
				config := p.blob("{}", storage.StatementType)
				b, err := json.Marshal(ocispec.Manifest{
					Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
					Config: config, Layers: []ocispec.Descriptor{p.statement("good three")}, Subject: p.subject(),
				})
				if err != nil {
					t.Fatal(err)
				}
				return b, p.put(b)
			},
		} {
			m, a := push()
			if a.status != 201 || a.header.Get("Scitt-Entry") != fmt.Sprint("e", i+1) || a.header.Get("OCI-Subject") != p.image || len(a.header["Warning"]) > 0 {
				t.Errorf("push %d: %d %v %s", i, a.status, a.header, a.body)
			}
			if !p.has(m) {
				t.Errorf("push %d is not stored", i)
			}
			got := p.registered[len(p.registered)-1]
			if got.Repository != "app/x" || got.Image != p.image || got.Manifest != digest.FromBytes(m).String() || got.Payload != nil || got.Evidence != "" {
				t.Errorf("push %d registered %+v", i, got)
			}
		}
	})
}

func TestARefusedStatementIsDeniedOrNotedAsTheModeSays(t *testing.T) {
	bothWays(t, func(t *testing.T, proxied bool) {
		for mode, want := range map[string]int{front.PushOff: 201, front.PushObserve: 201, front.PushGate: 403} {
			p := newPushing(t, proxied, mode, nil)
			m, a := p.submit("refused by policy")
			registered, refused := p.counts()
			if a.status != want || p.has(m) != (want == 201) || registered != 0 || refused != map[string]int{front.PushObserve: 1}[mode] || a.header.Get("Scitt-Entry") != "" {
				t.Errorf("%s: %d, stored %t, %d registered, %d noted", mode, a.status, p.has(m), registered, refused)
			}
			switch mode {
			case front.PushGate:
				if a.code() != "DENIED" || !strings.Contains(a.body, `"rule":"issuers"`) || !strings.Contains(a.body, `"policyEntry":"77c0"`) || !strings.Contains(a.body, "mallory") {
					t.Errorf("denied with %s", a.body)
				}
			case front.PushObserve:
				if got := a.header.Get("Warning"); got != `299 - "stored, but not registered: issuer 'mallory' is not in the policy"` {
					t.Errorf("Warning %q", got)
				}
			case front.PushOff:
				if p.judged != 0 {
					t.Error("off, and still judged")
				}
			}
		}
	})
}

func TestABadSubmissionIsABadManifestInEitherMode(t *testing.T) {
	bothWays(t, func(t *testing.T, proxied bool) {
		for _, mode := range []string{front.PushObserve, front.PushGate} {
			p := newPushing(t, proxied, mode, func(c *front.PushConfig) { c.MaxStatement = 100 })
			good, big := p.statement("good"), p.statement("good "+strings.Repeat("x", 100))
			absent := ocispec.Descriptor{MediaType: storage.StatementType, Digest: digest.FromString("absent"), Size: 6}
			lying := good
			lying.Size++
			hollow := *p.subject()
			hollow.Digest = "sha256:x"
			garbled := good
			garbled.Digest = "md5:x"
			other := p.blob("evidence", "a/b")
			for name, c := range map[string]struct {
				manifest []byte
				status   int
				code     string
				says     string
			}{
				"two statements":                 {p.manifest(storage.StatementType, p.subject(), nil, good, p.statement("good 2")), 400, "MANIFEST_INVALID", "2 layers of type"},
				"no statement":                   {p.manifest(storage.StatementType, p.subject(), nil, other), 400, "MANIFEST_INVALID", "0 layers of type"},
				"an oversize statement":          {p.manifest(storage.StatementType, p.subject(), nil, big), 413, "SIZE_INVALID", "at most 100"},
				"a statement that is absent":     {p.manifest(storage.StatementType, p.subject(), nil, absent), 400, "MANIFEST_BLOB_UNKNOWN", absent.Digest.String()},
				"a layer of another size":        {p.manifest(storage.StatementType, p.subject(), nil, lying), 400, "MANIFEST_INVALID", "4 bytes, not 5"},
				"a subject that is no digest":    {p.manifest(storage.StatementType, &hollow, nil, good), 400, "MANIFEST_INVALID", "subject"},
				"a layer that is no digest":      {p.manifest(storage.StatementType, p.subject(), nil, garbled), 400, "MANIFEST_INVALID", "layers: 0: digest"},
				"what is no statement":           {p.manifest(storage.StatementType, p.subject(), nil, p.statement("garbage")), 400, "MANIFEST_INVALID", "not a statement"},
				"a statement of another subject": {p.manifest(storage.StatementType, p.subject(), nil, p.statement("elsewhere")), 400, "MANIFEST_INVALID", "names repository b, not a"},
			} {
				a := p.put(c.manifest)
				if a.status != c.status || a.code() != c.code || !strings.Contains(a.body, c.says) {
					t.Errorf("%s, %s: %d %s", mode, name, a.status, a.body)
				}
				if p.has(c.manifest) {
					t.Errorf("%s, %s is stored", mode, name)
				}
			}
			if registered, refused := p.counts(); registered+refused > 0 {
				t.Errorf("%d registered, %d noted", registered, refused)
			}
		}
	})
}

// The embedded registry reads strictly and others take SUBJECT for subject: a
// manifest that is no submission to one of them passes nowhere.
func TestAManifestThatReadsInTwoWaysPassesNoGate(t *testing.T) {
	bothWays(t, func(t *testing.T, proxied bool) {
		p := newPushing(t, proxied, front.PushGate, nil)
		submission := string(p.manifest(storage.StatementType, p.subject(), nil, p.statement("refused")))
		for _, more := range []string{
			`"ArtifactType":"a/b"`, `"artifactType":"a/b"`, `"artifact\u0054ype":"a/b"`, `"Subject":null`, `"layerſ":[]`, `"annotations":{"a":1}`,
			`"manifests":[{"digest":"` + zero + `","Digest":"x"}]`, `"manifests":[{"digest":"` + zero + `","annotations":7}]`,
		} {
			m := []byte(strings.TrimSuffix(submission, "}") + "," + more + "}")
			if a := p.put(m); a.status != 400 || a.code() != "MANIFEST_INVALID" || p.has(m) {
				t.Errorf("%s: %d %s; stored %t", more, a.status, a.body, p.has(m))
			}
		}
	})
}

func TestOtherManifestsPassUntouched(t *testing.T) {
	p := newPushing(t, false, front.PushGate, nil)
	statement := p.statement("refused")
	for name, m := range map[string][]byte{
		"a statement that refers to nothing": p.manifest(storage.StatementType, nil, nil, statement),
		"evidence":                           p.manifest("application/spdx+json", p.subject(), nil, statement),
		"a transparency artifact":            p.manifest(storage.TransparencyType, p.subject(), nil, statement),
	} {
		if a := p.put(m); a.status != 201 || p.judged > 0 {
			t.Errorf("%s: %d, %d judged", name, a.status, p.judged)
		}
	}
	// What is no manifest is the registry's to refuse.
	if a := p.put([]byte("{")); a.status != 400 || a.code() != "MANIFEST_INVALID" {
		t.Errorf("no JSON: %d %s", a.status, a.body)
	}
}

func TestACopiedArtifactRegistersNothingUnlessAsked(t *testing.T) {
	bothWays(t, func(t *testing.T, proxied bool) {
		for _, c := range []struct {
			foreign, mode, text string
			status, registered  int
			noted               int
		}{
			{front.ForeignPass, front.PushGate, "refused", 201, 0, 0},
			{front.ForeignDeny, front.PushOff, "good", 403, 0, 0},
			{front.ForeignRegister, front.PushOff, "good", 201, 1, 0},
			{front.ForeignRegister, front.PushObserve, "refused", 201, 0, 1},
			{front.ForeignRegister, front.PushGate, "refused", 403, 0, 0},
		} {
			p := newPushing(t, proxied, c.mode, func(config *front.PushConfig) { config.Foreign = func(string) string { return c.foreign } })
			m := p.manifest(storage.TransparencyType, p.subject(), nil, p.statement(c.text), p.blob("receipt", storage.TransparencyType))
			a := p.put(m)
			registered, noted := p.counts()
			if a.status != c.status || registered != c.registered || noted != c.noted || p.has(m) != (c.status == 201) {
				t.Errorf("%+v: %d %s, %d registered, %d noted, stored %t", c, a.status, a.body, registered, noted, p.has(m))
			}
		}
	})
}

func TestADetachedPayloadComesAsTheOtherLayerOrByName(t *testing.T) {
	bothWays(t, func(t *testing.T, proxied bool) {
		p := newPushing(t, proxied, front.PushGate, nil)
		payload := p.blob("the payload", "application/spdx+json")
		if _, a := p.submit("detached one", payload); a.status != 201 || string(p.registered[0].Payload) != "the payload" || p.registered[0].Evidence != payload.Digest.String() {
			t.Errorf("beside it: %d %s %+v", a.status, a.body, p.registered)
		}
		named := p.manifest(storage.StatementType, p.subject(), map[string]string{storage.EvidenceAnnotation: "sha256:abc"}, p.statement("detached two"))
		if a := p.put(named); a.status != 201 || p.registered[1].Payload != nil || p.registered[1].Evidence != "sha256:abc" {
			t.Errorf("named: %d %s", a.status, a.body)
		}
		if _, a := p.submit("detached three"); a.status != 403 || !strings.Contains(a.body, "payload-missing") {
			t.Errorf("nowhere: %d %s", a.status, a.body)
		}
		large := payload
		large.Size = 9 << 20
		if _, a := p.submit("detached four", large); a.status != 400 || !strings.Contains(a.body, "/v1/evidence/"+payload.Digest.String()) {
			t.Errorf("too large: %d %s", a.status, a.body)
		}
		// Of a statement that is not detached it is evidence, whatever its size.
		if _, a := p.submit("good one", large); a.status >= 500 || a.code() == "SIZE_INVALID" {
			t.Errorf("large evidence: %d %s", a.status, a.body)
		}
	})
}

func TestAPushThatIsStoredAndNotRegisteredIsRepeated(t *testing.T) {
	bothWays(t, func(t *testing.T, proxied bool) {
		p := newPushing(t, proxied, front.PushObserve, nil)
		p.down = true
		m, a := p.submit("good one")
		if a.status != 503 || a.header.Get("Retry-After") == "" || p.has(m) {
			t.Errorf("while the log is away: %d %s, stored %t", a.status, a.body, p.has(m))
		}
		p.down = false
		if a := p.put(m); a.status != 201 || a.header.Get("Scitt-Entry") == "" {
			t.Errorf("again: %d %s", a.status, a.body)
		}
		// Ordinary pushes need nobody.
		p.down = true
		if a := p.put(p.manifest("a/b", p.subject(), nil)); a.status != 201 {
			t.Errorf("an ordinary push: %d %s", a.status, a.body)
		}
	})
}

func TestAPolicyThatComesInBetweenIsHeard(t *testing.T) {
	for mode, want := range map[string]int{front.PushObserve: 201, front.PushGate: 403} {
		p := newPushing(t, false, mode, nil)
		p.later = true
		m, a := p.submit("good one")
		if _, noted := p.counts(); a.status != want || noted != 1 || !p.has(m) {
			t.Errorf("%s: %d %s, %d noted, stored %t", mode, a.status, a.body, noted, p.has(m))
		}
	}
}

func TestAPushWaitsForItsPlacementAndNoLonger(t *testing.T) {
	p := newPushing(t, false, front.PushObserve, func(c *front.PushConfig) { c.Wait = 20 * time.Millisecond })
	p.waits = true
	if _, a := p.submit("good one"); a.status != 201 || a.header.Get("Scitt-Entry") == "" {
		t.Errorf("%d %s", a.status, a.body)
	}
}

func TestTheRegistryHasTheFirstWordAboutAPush(t *testing.T) {
	denied := errors.New("not asked")
	p := newPushing(t, false, front.PushObserve, func(c *front.PushConfig) {
		c.May = func(*http.Request, string, bool) error { return denied }
	})
	if _, a := p.submit("good one"); a.status != 503 || p.judged != 0 {
		t.Errorf("nobody knows: %d %s, %d judged", a.status, a.body, p.judged)
	}
	denied = &front.RateLimited{After: 3 * time.Second}
	if _, a := p.submit("good one"); a.status != 429 || a.header.Get("Retry-After") != "3" || p.judged != 0 {
		t.Errorf("over the rate: %d %s, %d judged", a.status, a.body, p.judged)
	}
	denied = nil
	// The registry refuses the manifest: nothing is registered.
	m := p.manifest(storage.StatementType, p.subject(), nil, p.statement("good one"))
	a := do(t, "PUT", p.url+"/v2/app/x/manifests/"+digest.FromString("other").String(), string(m), "", "Content-Type: "+ocispec.MediaTypeImageManifest)
	if registered, _ := p.counts(); a.status != 400 || registered != 0 {
		t.Errorf("under another digest: %d %s, %d registered", a.status, a.body, registered)
	}
}
