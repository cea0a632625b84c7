package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
)

// shape is a command of the scripts: it reads one JSON document and prints each
// member's path and type, and the value of apiVersion and kind. Elements of a
// list are shown as one.
func shape() {
	in := json.NewDecoder(os.Stdin)
	var doc any
	if err := in.Decode(&doc); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if in.More() {
		fmt.Fprintln(os.Stderr, "there is more than one document")
		os.Exit(1)
	}
	lines := map[string]bool{}
	describeShape("", doc, lines)
	for _, line := range slices.Sorted(maps.Keys(lines)) {
		fmt.Println(line)
	}
}

func describeShape(path string, v any, lines map[string]bool) {
	switch v := v.(type) {
	case map[string]any:
		for name, member := range v {
			describeShape(path+"."+name, member, lines)
		}
	case []any:
		if len(v) == 0 {
			lines[path+"[]"] = true
		}
		for _, element := range v {
			describeShape(path+"[]", element, lines)
		}
	default:
		kind := map[string]string{"string": "string", "float64": "number", "bool": "bool", "<nil>": "null"}[fmt.Sprintf("%T", v)]
		if path == ".apiVersion" || path == ".kind" {
			kind = fmt.Sprint(v)
		}
		lines[path+" "+kind] = true
	}
}
