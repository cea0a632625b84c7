package statement

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// inToto is what the index wants from an in-toto Statement.
type inToto struct {
	predicateType string
	digests       []Digest // sorted, without repeats
	tooMany       bool     // more than MaxArtifacts digests; then digests is nil
}

// parseInToto reads an in-toto Statement (v0.1 or v1), plain or in a DSSE
// envelope, by what it says and not by its media type. Anything else is the zero
// inToto: evidence is never judged, so a broken payload is no error. The
// signatures in a DSSE envelope are nobody's business here: who vouches for the
// payload is the issuer of the statement.
func parseInToto(payload []byte) inToto {
	if !mayBeInToto(payload) {
		return inToto{}
	}
	object, ok := jsonObject(payload)
	if !ok {
		return inToto{}
	}
	if kind := jsonText(object["payloadType"]); strings.HasPrefix(strings.ToLower(kind), "application/vnd.in-toto") {
		body, err := decodeBase64(jsonText(object["payload"]))
		if err != nil {
			return inToto{}
		}
		if object, ok = jsonObject(body); !ok {
			return inToto{}
		}
	}
	found, _ := inTotoStatement(object)
	return found
}

// InTotoSubjects returns the artifact digests that an in-toto Statement names,
// read as those of a payload are. ErrTooManyArtifacts: more than MaxArtifacts.
// ErrMalformed: b is no in-toto Statement; one in an envelope is none.
func InTotoSubjects(b []byte) ([]Digest, error) {
	object, _ := jsonObject(b)
	found, ok := inTotoStatement(object)
	switch {
	case !ok:
		return nil, malformed("no in-toto Statement")
	case found.tooMany:
		return nil, fmt.Errorf("%w: more than %d", ErrTooManyArtifacts, MaxArtifacts)
	}
	return found.digests, nil
}

func inTotoStatement(object map[string]json.RawMessage) (found inToto, ok bool) {
	if !strings.HasPrefix(jsonText(object["_type"]), "https://in-toto.io/Statement/") {
		return inToto{}, false
	}
	if t := jsonText(object["predicateType"]); len(t) <= MaxPredicateType && unclean(t) == "" {
		found.predicateType = t
	}
	found.digests, found.tooMany = subjectDigests(object["subject"])
	return found, true
}

// mayBeInToto spares what cannot be in-toto, most SBOMs among it, a parse that
// costs a fifth of a signature: a member name appears as it is, or escaped.
func mayBeInToto(payload []byte) bool {
	return bytes.Contains(payload, []byte(`"_type"`)) || bytes.Contains(payload, []byte(`"payloadType"`)) ||
		bytes.Contains(payload, []byte(`\u`))
}

// subjectDigests reads the digests of an in-toto subject list, one subject at a
// time, and gives up after MaxArtifacts.
func subjectDigests(list json.RawMessage) (digests []Digest, tooMany bool) {
	dec := json.NewDecoder(bytes.NewReader(list))
	if start, err := dec.Token(); err != nil || start != json.Delim('[') {
		return nil, false
	}
	seen := make(map[Digest]struct{})
	for dec.More() {
		var raw json.RawMessage
		if dec.Decode(&raw) != nil {
			break
		}
		subject, _ := jsonObject(raw)
		sums, _ := jsonObject(subject["digest"])
		for alg, value := range sums {
			d, err := ParseDigest(alg + ":" + jsonText(value))
			if err != nil {
				continue
			}
			if seen[d] = struct{}{}; len(seen) > MaxArtifacts {
				return nil, true
			}
		}
	}
	return slices.Sorted(maps.Keys(seen)), false
}

// jsonObject reads an object by its exact member names; encoding/json alone
// would take "SUBJECT" for "subject". Of repeated members the last one counts.
func jsonObject(b []byte) (map[string]json.RawMessage, bool) {
	var object map[string]json.RawMessage
	if json.Unmarshal(b, &object) != nil {
		return nil, false
	}
	return object, object != nil
}

func jsonText(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}

// decodeBase64 takes both alphabets, as DSSE demands.
func decodeBase64(s string) ([]byte, error) {
	if strings.ContainsAny(s, "-_") {
		return base64.URLEncoding.DecodeString(s)
	}
	return base64.StdEncoding.DecodeString(s)
}
