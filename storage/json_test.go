package storage_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"testing"
	"unicode/utf8"

	"github.com/scittd/scittd/storage"
)

// What Members and Elements find is what encoding/json finds.
func FuzzWalkFindsWhatJSONHolds(f *testing.F) {
	for _, seed := range []string{
		`{}`, `[]`, ` { "a" : 1 , "b":[1,{"c":"}"}] } `, `{"a":"\"}","\u0062":null,"c":-1.5e3}`, "[\n1 ,\t\"x,]\" ,[[]],{\"a\":{}}\r]",
		`{"manifests":[{"digest":"sha256:aa","annotations":{"k":"v\\"}}]}`, `"x"`, `1`, `null`, `{"a":"\\"}`, `[true,false]`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, document []byte) {
		if !json.Valid(document) || !utf8.Valid(document) {
			return
		}
		var object map[string]json.RawMessage
		if json.Unmarshal(document, &object) != nil {
			object = nil
		}
		found := map[string]string{}
		err := storage.Members(document, func(name, value []byte) error {
			found[string(name)] = string(value)
			return nil
		})
		want := map[string]string{}
		for k, v := range object {
			want[k] = string(v)
		}
		if !maps.Equal(found, want) || (err == nil) != (object != nil) {
			t.Errorf("%q has members %q, want %q", document, found, want)
		}
		var array []json.RawMessage
		if json.Unmarshal(document, &array) != nil {
			array = nil
		}
		var all []json.RawMessage
		err = storage.Elements(document, func(value []byte) error {
			all = append(all, value)
			return nil
		})
		if (err == nil) != (array != nil) || !slices.EqualFunc(all, array, func(a, b json.RawMessage) bool { return bytes.Equal(a, b) }) {
			t.Errorf("%q has elements %q, want %q", document, all, array)
		}
	})
}
