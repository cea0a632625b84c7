package api

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/statement"
)

const (
	defaultPage = 50
	maxPage     = 500

	// maxValues is how often one filter may be repeated. A prefix is compared
	// with every issuer there is, so of them there are fewer.
	maxValues   = 100
	maxPrefixes = 10
)

// filter is a parsed query string of GET /v1/entries.
type filter struct {
	query     ledger.Query // without Scope and Limit, which the caller and the page set
	instances bool         // of an image index, also what is claimed about what it lists
	limit     int
	values    url.Values // without cursor
	hash      [8]byte    // of the conditions, without limit and cursor
}

// parseFilter reads a query string. What is unknown, malformed or out of range
// is refused by name: a filter that were ignored would find too much, and one
// that were misread would find nothing and look like a clean answer.
func parseFilter(raw string) (*filter, error) {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return nil, &fault{code: "bad-filter", detail: "The query string is not well formed.", cause: err}
	}
	f := &filter{limit: defaultPage, values: values}
	cursor, paged := values["cursor"]
	delete(values, "cursor")
	f.hash = hashOf(values)

	// In the order of their names, so that the same query gets the same refusal.
	for _, name := range sortedNames(values) {
		if err := f.set(name, values[name]); err != nil {
			return nil, err
		}
	}
	if q := f.query; !q.Since.IsZero() && !q.Until.IsZero() && !q.Since.Before(q.Until) {
		return nil, badFilter("since", "it is not before until")
	}
	if paged {
		if len(cursor) != 1 {
			return nil, &fault{code: "bad-cursor", detail: "There is more than one cursor."}
		}
		if f.query.Before, err = f.before(cursor[0]); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// set reads one parameter. Its values are alternatives.
func (f *filter) set(name string, values []string) error {
	q := &f.query
	if len(values) > maxValues {
		return badFilter(name, "it is given more than %d times", maxValues)
	}
	var err error
	switch name {
	case "subject":
		q.Artifacts, err = digests(name, values)
	case "evidence":
		q.Evidence, err = digests(name, values)
	case "issuer":
		q.Issuers, err = plain(name, values, statement.MaxIssuer)
	case "issuerPrefix":
		q.IssuerPrefixes, err = prefixes(name, values)
	case "predicateType":
		q.PredicateTypes, err = plain(name, values, statement.MaxPredicateType)
	case "mediaType":
		q.MediaTypes, err = plain(name, values, statement.MaxMediaType)
		for i, m := range q.MediaTypes {
			q.MediaTypes[i] = indexed(m)
		}
	case "since":
		q.Since, err = instant(name, values)
	case "until":
		q.Until, err = instant(name, values)
	case "instances":
		f.instances, err = instancesOf(values)
	case "limit":
		f.limit, err = strconv.Atoi(values[0])
		if err != nil || len(values) != 1 || f.limit < 1 || f.limit > maxPage {
			return badFilter(name, "it is one number from 1 to %d", maxPage)
		}
	default:
		return badFilter(name, "there is no such parameter; there are subject, evidence, issuer, issuerPrefix, mediaType, predicateType, since, until, instances, limit and cursor")
	}
	return err
}

// indexed is a media type as the index has it.
func indexed(m string) string {
	m, _, _ = strings.Cut(m, ";")
	// No media type has a space: it is a + that was not escaped.
	return strings.ReplaceAll(strings.ToLower(strings.TrimSpace(m)), " ", "+")
}

func digests(name string, values []string) ([]statement.Digest, error) {
	var all []statement.Digest
	for _, v := range values {
		d, err := parseDigest(v)
		if err != nil {
			return nil, &fault{code: "bad-digest", detail: fmt.Sprintf("Parameter %s: %q is no digest; one is written sha256:<64 lower-case hexadecimal digits>.", name, bounded(v))}
		}
		all = append(all, d)
	}
	return all, nil
}

// plain reads text that is compared exactly. What the index cannot hold is
// refused here, before a database chokes on it.
func plain(name string, values []string, max int) ([]string, error) {
	for _, v := range values {
		switch {
		case v == "":
			return nil, badFilter(name, "it is empty")
		case !utf8.ValidString(v) || strings.ContainsRune(v, 0):
			return nil, badFilter(name, "it is no clean text")
		case utf8.RuneCountInString(v) > max:
			return nil, badFilter(name, "it is longer than %d characters", max)
		}
	}
	return slices.Clone(values), nil
}

// prefixes reads issuers that stand for all below them, too.
func prefixes(name string, values []string) ([]statement.IssuerPrefix, error) {
	if len(values) > maxPrefixes {
		return nil, badFilter(name, "it may be repeated at most %d times", maxPrefixes)
	}
	var all []statement.IssuerPrefix
	for _, v := range values {
		p, err := statement.ParseIssuerPrefix(v)
		if err != nil {
			return nil, badFilter(name, "%v", err)
		}
		all = append(all, p)
	}
	return all, nil
}

func instant(name string, values []string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, values[0])
	if err != nil || len(values) != 1 || t.Unix() < 0 { // no log is older than Unix
		return t, badFilter(name, "it is one time as in RFC 3339, like 2026-11-01T00:00:00Z")
	}
	return t, nil
}

func badFilter(name, format string, args ...any) error {
	return &fault{code: "bad-filter", detail: fmt.Sprintf("Parameter %q: %s.", bounded(name), fmt.Sprintf(format, args...))}
}

// cursor continues this query below index. It is opaque to clients: the hash
// of the conditions, so that it serves no other query, then the index.
func (f *filter) cursor(index uint64) string {
	return base64.RawURLEncoding.EncodeToString(binary.BigEndian.AppendUint64(f.hash[:], index))
}

// before reads a cursor of this query.
func (f *filter) before(cursor string) (uint64, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	if err != nil || len(b) != len(f.hash)+8 || [8]byte(b) != f.hash {
		return 0, &fault{code: "bad-cursor", hint: "follow next, or start again without a cursor"}
	}
	index := binary.BigEndian.Uint64(b[len(f.hash):])
	if index == 0 || index > math.MaxInt64 {
		return 0, &fault{code: "bad-cursor", hint: "follow next, or start again without a cursor"}
	}
	return index, nil
}

// with is the query string of the page at cursor.
func (f *filter) with(cursor string) string {
	f.values.Set("cursor", cursor)
	return f.values.Encode()
}

// hashOf is the same for the same conditions in any order.
func hashOf(values url.Values) [8]byte {
	h := sha256.New()
	for _, name := range sortedNames(values) {
		if name == "limit" {
			continue
		}
		for _, v := range slices.Sorted(slices.Values(values[name])) {
			fmt.Fprintf(h, "%q=%q\n", name, v)
		}
	}
	return [8]byte(h.Sum(nil))
}

func sortedNames(values url.Values) []string {
	names := make([]string, 0, len(values))
	for name := range values {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
