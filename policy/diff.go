package policy

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Difference is one member in which two policies differ. From and To are JSON,
// "" where it is absent. Keys, certificates and other texts too long to compare by
// eye are cut, with the hash of the whole; expressions and messages never are: who
// signs a policy reads them.
type Difference struct {
	Path string `json:"path"` // "issuers[release].mediaTypes"
	From string `json:"from,omitempty"`
	To   string `json:"to,omitempty"`
}

func (d Difference) String() string {
	switch {
	case d.From == "":
		return fmt.Sprintf("+ %s: %s", d.Path, d.To)
	case d.To == "":
		return fmt.Sprintf("- %s: %s", d.Path, d.From)
	}
	return fmt.Sprintf("~ %s: %s -> %s", d.Path, d.From, d.To)
}

// Diff compares policies member by member, in the order of their names. Elements
// of a list are told apart by what names them (name, iss, pattern, key, match),
// not by where they stand; that their order differs is a difference of the list.
// Previous, which always differs, is left out.
func Diff(from, to *Policy) ([]Difference, error) {
	var trees [2]map[string]any
	for i, p := range []*Policy{from, to} {
		b, err := p.JSON()
		if err != nil {
			return nil, err
		}
		d := json.NewDecoder(bytes.NewReader(b))
		d.UseNumber()
		if err := d.Decode(&trees[i]); err != nil {
			return nil, err
		}
		delete(trees[i], "previous")
	}
	var d differ
	d.members("", trees[0], trees[1])
	return d, nil
}

type differ []Difference

func (d *differ) add(path string, from, to any) {
	member := path[strings.LastIndex(path, ".")+1:]
	*d = append(*d, Difference{path, shown(member, from), shown(member, to)})
}

// members compares objects.
func (d *differ) members(path string, from, to map[string]any) {
	names := map[string]bool{}
	for name := range from {
		names[name] = true
	}
	for name := range to {
		names[name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		at := name
		if path != "" {
			at = path + "." + name
		}
		d.values(at, from[name], to[name])
	}
}

func (d *differ) values(path string, from, to any) {
	switch a := from.(type) {
	case map[string]any:
		if b, ok := to.(map[string]any); ok {
			d.members(path, a, b)
			return
		}
	case []any:
		if b, ok := to.([]any); ok {
			d.elements(path, a, b)
			return
		}
	}
	if whole(from) != whole(to) {
		d.add(path, from, to)
	}
}

// elements compares lists.
func (d *differ) elements(path string, from, to []any) {
	before, order := named(from)
	after, newOrder := named(to)
	for _, name := range order {
		if _, ok := after[name]; !ok {
			d.add(path+"["+name+"]", before[name], nil)
		}
	}
	var kept []string
	for _, name := range newOrder {
		if _, ok := before[name]; !ok {
			d.add(path+"["+name+"]", nil, after[name])
			continue
		}
		kept = append(kept, name)
		d.values(path+"["+name+"]", before[name], after[name])
	}
	order = slices.DeleteFunc(order, func(name string) bool { _, ok := after[name]; return !ok })
	if !slices.Equal(order, kept) {
		*d = append(*d, Difference{path + " (order)", cut(strings.Join(order, ", ")), cut(strings.Join(kept, ", "))})
	}
}

// named are the elements of a list by name, and their names in order. Of several
// with one name all but the first have a number, too.
func named(list []any) (all map[string]any, order []string) {
	all = map[string]any{}
	for _, element := range list {
		name := nameOf(element)
		for i := 2; ; i++ {
			if _, taken := all[name]; !taken {
				break
			}
			name = fmt.Sprintf("%s #%d", nameOf(element), i)
		}
		all[name] = element
		order = append(order, name)
	}
	return all, order
}

func nameOf(element any) string {
	if object, ok := element.(map[string]any); ok {
		for _, member := range []string{"name", "iss", "pattern", "match", "key"} {
			if text, ok := object[member].(string); ok {
				return brief(text)
			}
		}
		return brief(element)
	}
	return brief(element)
}

// longest is how much of a value is shown.
const longest = 160

// shown is v, the value of a member, for people.
func shown(member string, v any) string {
	switch v := readable(member, v).(type) {
	case nil:
		return ""
	case string:
		// No line but the first looks like one of a Difference.
		return strings.ReplaceAll(v, "\n", "\n    | ")
	default:
		var text strings.Builder
		e := json.NewEncoder(&text)
		e.SetEscapeHTML(false)
		if err := e.Encode(v); err != nil {
			panic(err) // it was read from JSON
		}
		return strings.TrimSuffix(text.String(), "\n")
	}
}

// readable cuts long texts inside of v, but for those that somebody wrote to be read.
func readable(member string, v any) any {
	switch v := v.(type) {
	case string:
		if member == "cel" || member == "message" {
			return v
		}
		return cut(v)
	case []any:
		list := make([]any, len(v))
		for i, element := range v {
			list[i] = readable(member, element)
		}
		return list
	case map[string]any:
		object := map[string]any{}
		for name, value := range v {
			object[name] = readable(name, value)
		}
		return object
	}
	return v
}

// brief is v as a name.
func brief(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string: // printable, or the policy would not be one
		return cut(v)
	}
	return cut(whole(v))
}

func cut(text string) string {
	if len(text) <= longest {
		return text
	}
	sum := sha256.Sum256([]byte(text))
	return fmt.Sprintf("%s… (%d bytes, sha256 %x…)", strings.ToValidUTF8(text[:48], ""), len(text), sum[:6])
}

func whole(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // it was read from JSON
	}
	return string(b)
}
