package storage

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// JSON of strangers is read by walking over bytes that json.Valid has passed,
// without making anything of the members that nobody asks for: telling names
// apart above encoding/json costs seconds of CPU for 4 MiB that were made for that.

// Members calls each with the members of an object of valid JSON, in order, names
// without their quotes and escapes.
func Members(object []byte, each func(name, value []byte) error) error {
	rest, err := within(object, '{', "an object")
	if err != nil {
		return err
	}
	for rest[0] != '}' {
		var name, value []byte
		name, rest = split(rest)
		value, rest = split(rest[1:]) // behind the colon
		if name = name[1 : len(name)-1]; bytes.IndexByte(name, '\\') >= 0 {
			name = []byte(unquoted(name))
		}
		if err := each(name, value); err != nil {
			return err
		}
		if rest[0] == ',' {
			rest = space(rest[1:])
		}
	}
	return nil
}

// Elements calls each with the elements of an array of valid JSON, in order.
func Elements(array []byte, each func(value []byte) error) error {
	rest, err := within(array, '[', "an array")
	if err != nil {
		return err
	}
	for rest[0] != ']' {
		var value []byte
		value, rest = split(rest)
		if err := each(value); err != nil {
			return err
		}
		if rest[0] == ',' {
			rest = space(rest[1:])
		}
	}
	return nil
}

// within is what follows the bracket that a value should begin with.
func within(value []byte, bracket byte, what string) ([]byte, error) {
	value = space(value)
	if value[0] != bracket {
		return nil, fmt.Errorf("%.100s is not %s", value, what)
	}
	return space(value[1:]), nil
}

// split cuts valid JSON into the value it begins with, white space around it
// dropped, and what follows.
func split(valid []byte) (value, rest []byte) {
	valid = space(valid)
	end := 0
	switch valid[0] {
	case '"':
		end = stringEnd(valid, 0)
	case '{', '[':
		for depth := 0; ; end++ {
			switch valid[end] {
			case '"':
				end = stringEnd(valid, end) - 1
			case '{', '[':
				depth++
			case '}', ']':
				depth--
			}
			if depth == 0 {
				end++
				break
			}
		}
	default:
		for end < len(valid) && strings.IndexByte(",:]} \t\r\n", valid[end]) < 0 {
			end++
		}
	}
	return valid[:end], space(valid[end:])
}

// stringEnd is behind the string that starts at i.
func stringEnd(valid []byte, i int) int {
	for i++; valid[i] != '"'; i++ {
		if valid[i] == '\\' {
			i++
		}
	}
	return i + 1
}

func space(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t' || b[0] == '\r' || b[0] == '\n') {
		b = b[1:]
	}
	return b
}

// Text is what a string in valid JSON says; false for any other value.
func Text(value []byte) (string, bool) {
	if value[0] != '"' {
		return "", false
	}
	return unquoted(value[1 : len(value)-1]), true
}

// unquoted is what stands between the quotes of a string.
func unquoted(inner []byte) string {
	if bytes.IndexByte(inner, '\\') < 0 {
		return string(inner)
	}
	var s string
	_ = json.Unmarshal(append(append([]byte{'"'}, inner...), '"'), &s) // it is valid
	return s
}
