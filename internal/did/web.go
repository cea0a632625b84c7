package did

import (
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/scittd/scittd/internal/cose"
)

// A host in a did:web, and a segment of its path: idchar of DID Core §3.1.
var (
	webHost    = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	webAddress = regexp.MustCompile(`(^|\.)([0-9]+|0x[0-9a-f]*)$`)
	webSegment = regexp.MustCompile(`^([A-Za-z0-9._-]|%[0-9A-F]{2})+$`)
)

// WebURL is where the document of a did:web is.
//
// SPEC did:web §2.5.2: colons become slashes, %3A before a port a colon;
// without a path the document is in /.well-known. The host is a name, and no
// address (§2.3).
func WebURL(did string) (string, error) {
	id, ok := strings.CutPrefix(did, "did:web:")
	if !ok {
		return "", malformed("not a did:web")
	}
	host, path, deep := strings.Cut(id, ":")
	name, port, ported := strings.Cut(host, "%3A")
	if len(name) > 253 || !webHost.MatchString(name) || webAddress.MatchString(name) {
		return "", malformed("did:web: host %s is no name in lower case", quote(name))
	}
	u := "https://" + name
	if ported {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || strconv.FormatUint(n, 10) != port {
			return "", malformed("did:web: port %s", quote(port))
		}
		u += ":" + port
	}
	if !deep {
		return u + "/.well-known/did.json", nil
	}
	for segment := range strings.SplitSeq(path, ":") {
		plain, err := url.PathUnescape(segment)
		if err != nil || !webSegment.MatchString(segment) || plain == "." || plain == ".." || strings.ContainsAny(plain, "/\\\x00") {
			return "", malformed("did:web: path segment %s", quote(segment))
		}
		u += "/" + segment
	}
	return u + "/did.json", nil
}

// ParseDocument reads the DID document of did: the keys that it lets sign
// statements, by the DID URLs of their verification methods, the fragments of
// those, with or without #, or their RFC 9679 thumbprints. A method that cannot
// be used is ignored, unless it is the one that is looked for.
func ParseDocument(did string, body []byte) (Keys, error) {
	m, err := object(body)
	if err != nil {
		return Keys{}, fmt.Errorf("DID document: %w", err)
	}
	// SPEC did:web §2.5.2, DID Core §5.1.1: id MUST be the DID that was resolved.
	if id, err := m.text("id"); err != nil || id != did {
		return Keys{}, malformed("DID document: its id is %s, not %s", quote(id), quote(did))
	}
	d := document{did: did, methods: map[string]members{}}
	if err := d.read(m); err != nil {
		return Keys{}, fmt.Errorf("DID document: %w", err)
	}
	return d.keys, nil
}

// document is a DID document on its way to Keys.
type document struct {
	did     string
	methods map[string]members // by DID URL: of verificationMethod
	keys    Keys
}

func (d *document) read(m members) error {
	listed, err := m.list("verificationMethod", MaxKeys)
	if err != nil {
		return err
	}
	for i, raw := range listed {
		var method members
		if json.Unmarshal(raw, &method) != nil || method == nil {
			return malformed("verificationMethod[%d] is no object", i)
		}
		id, err := d.id(method)
		if err != nil {
			return fmt.Errorf("verificationMethod[%d]: %w", i, err)
		}
		if d.methods[id] != nil {
			return malformed("verification method %s is there twice", quote(id))
		}
		d.methods[id] = method
	}
	// SPEC DID Core §5.3.2: a statement is an assertion; only the methods of
	// assertionMethod are for those. Each is named, or stands there itself.
	asserting, err := m.list("assertionMethod", MaxKeys)
	if err != nil {
		return err
	}
	for i, raw := range asserting {
		method, id, err := d.asserting(raw)
		if err != nil {
			return fmt.Errorf("assertionMethod[%d]: %w", i, err)
		}
		if err := d.add(id, method); err != nil {
			return err
		}
	}
	for id := range d.methods {
		if _, known := d.keys.unusable[id]; !known && !d.has(id) {
			d.refuse(id, malformed("it is not among assertionMethod"))
		}
	}
	if len(d.keys.usable) > 0 {
		return nil
	}
	if why := d.keys.first; why != nil {
		return malformed("no key of it can be used: %w", why)
	}
	return malformed("it has no key for assertions (assertionMethod)")
}

// id is the DID URL of a method: absolute, or a fragment of the document's DID.
func (d *document) id(method members) (string, error) {
	id, err := method.text("id")
	if err != nil {
		return "", err
	}
	return d.absolute(id)
}

func (d *document) absolute(id string) (string, error) {
	if strings.HasPrefix(id, "#") {
		id = d.did + id
	}
	if fragment, ok := strings.CutPrefix(id, d.did+"#"); !ok || fragment == "" {
		return "", malformed("id %s is none of this document", quote(id))
	}
	return id, nil
}

// asserting returns an element of assertionMethod: nil for one of another
// document, which this one cannot vouch for.
func (d *document) asserting(raw json.RawMessage) (members, string, error) {
	var name string
	if json.Unmarshal(raw, &name) == nil && raw[0] == '"' {
		id, err := d.absolute(name)
		if err != nil {
			return nil, "", nil
		}
		if d.methods[id] == nil {
			return nil, "", malformed("%s is not among verificationMethod", quote(id))
		}
		return d.methods[id], id, nil
	}
	var method members
	if json.Unmarshal(raw, &method) != nil || method == nil {
		return nil, "", malformed("neither a name nor an object")
	}
	id, err := d.id(method)
	if err == nil && d.methods[id] != nil {
		err = malformed("verification method %s is there twice", quote(id))
	}
	d.methods[id] = method
	return method, id, err
}

func (d *document) add(id string, m members) error {
	if m == nil || d.has(id) {
		return nil
	}
	key, err := d.key(m)
	if err != nil {
		d.refuse(id, err)
		return nil
	}
	named, err := method(d.did, id, key)
	if err != nil {
		return err
	}
	if named.Until, err = m.until(); err != nil {
		d.refuse(id, err)
		return nil
	}
	d.keys.usable = append(d.keys.usable, named)
	return nil
}

// until is when a method ends: SPEC Controlled Identifiers v1.0 §2.2: nothing is
// to be verified with it at or after the times in expires and revoked.
func (m members) until() (end time.Time, err error) {
	for _, name := range []string{"expires", "revoked"} {
		text, err := m.text(name)
		if err != nil {
			return end, err
		}
		if _, there := m[name]; !there {
			continue
		}
		at, err := time.Parse(time.RFC3339, text)
		if err != nil || at.IsZero() {
			return end, malformed("its %s is %s, which is no time", name, quote(text))
		}
		if end.IsZero() || at.Before(end) {
			end = at.UTC()
		}
	}
	return end, nil
}

func (d *document) has(id string) bool {
	for _, k := range d.keys.usable {
		if k.ID == id {
			return true
		}
	}
	return false
}

func (d *document) refuse(id string, err error) {
	fragment := strings.TrimPrefix(id, d.did+"#")
	d.keys.refuse(err, []byte(id), []byte("#"+fragment), []byte(fragment))
}

// key reads the one key of a verification method.
//
// SPEC DID Core §5.2.1: one method MUST NOT say its key in two ways.
func (d *document) key(m members) (cose.Key, error) {
	if controller, err := m.text("controller"); err != nil || controller != d.did {
		return cose.Key{}, malformed("its controller is %s", quote(controller))
	}
	jwk, multibase := m["publicKeyJwk"], m["publicKeyMultibase"]
	switch {
	case jwk != nil && multibase != nil:
		return cose.Key{}, malformed("it has both publicKeyJwk and publicKeyMultibase")
	case jwk != nil:
		var k members
		if json.Unmarshal(jwk, &k) != nil || k == nil {
			return cose.Key{}, malformed("publicKeyJwk is no object")
		}
		return parseJWK(k)
	case multibase != nil:
		text, err := m.text("publicKeyMultibase")
		if err != nil {
			return cose.Key{}, err
		}
		public, err := multikey(text)
		return cose.Key{Public: public}, err
	}
	kind, _ := m.text("type")
	return cose.Key{}, malformed("it has neither publicKeyJwk nor publicKeyMultibase (type %s)", quote(kind))
}
