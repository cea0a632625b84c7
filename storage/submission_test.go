package storage_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/scittd/scittd/storage"
)

func submission(change ...func(m map[string]any)) []byte {
	of := func(mediaType, content string) map[string]any {
		return map[string]any{"mediaType": mediaType, "digest": digest.FromString(content).String(), "size": len(content)}
	}
	m := map[string]any{
		"schemaVersion": 2, "artifactType": storage.StatementType, "config": of("application/vnd.oci.empty.v1+json", "{}"),
		"subject": of("application/vnd.oci.image.manifest.v1+json", "image"), "layers": []any{of(storage.StatementType, "claim")},
	}
	for _, c := range change {
		c(m)
	}
	b, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	return b
}

func with(name string, value any) func(map[string]any) {
	return func(m map[string]any) { m[name] = value }
}

func TestASubmissionIsFoundInItsManifest(t *testing.T) {
	statement := map[string]any{"mediaType": storage.StatementType, "digest": digest.FromString("claim").String(), "size": 5}
	sbom := map[string]any{"mediaType": "application/spdx+json", "digest": digest.FromString("sbom").String(), "size": 4}
	for name, c := range map[string]struct {
		manifest []byte
		found    bool
		payload  bool
		err      string
	}{
		"a statement":                 {submission(), true, false, ""},
		"its type is the config's":    {submission(with("artifactType", nil), with("config", map[string]any{"mediaType": storage.StatementType})), true, false, ""},
		"evidence beside it":          {submission(with("layers", []any{sbom, statement})), true, true, ""},
		"more than one beside it":     {submission(with("layers", []any{sbom, statement, sbom})), true, false, ""},
		"a transparency artifact":     {submission(with("artifactType", storage.TransparencyType), with("layers", []any{statement, sbom})), true, false, ""},
		"no subject":                  {submission(with("subject", nil)), false, false, ""},
		"another type":                {submission(with("artifactType", "application/spdx+json")), false, false, ""},
		"no JSON":                     {[]byte("{"), false, false, ""},
		"another shape":               {[]byte(`{"subject": [], "artifactType": "` + storage.StatementType + `"}`), false, false, ""},
		"no layer":                    {submission(with("layers", nil)), true, false, "0 layers"},
		"two statements":              {submission(with("layers", []any{statement, statement})), true, false, "2 layers"},
		"a layer that is no digest":   {submission(with("layers", []any{map[string]any{"mediaType": storage.StatementType, "digest": "sha256:x"}})), true, false, "layer 0"},
		"a layer of less than 0":      {submission(with("layers", []any{map[string]any{"mediaType": storage.StatementType, "digest": digest.FromString("").String(), "size": -1}})), true, false, "size -1"},
		"a subject that is no digest": {submission(with("subject", map[string]any{"digest": "../../x"})), true, false, "subject"},
	} {
		s, ok, err := storage.ParseSubmission(c.manifest)
		if ok != c.found || (err == nil) != (c.err == "") || err != nil && (!errors.Is(err, storage.ErrSubmission) || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%s: found %t, %v", name, ok, err)
			continue
		}
		if c.found && c.err == "" && (s.Statement.Digest != digest.FromString("claim").String() || s.Subject.Digest != digest.FromString("image").String() || (s.Payload.Digest != "") != c.payload) {
			t.Errorf("%s: %+v", name, s)
		}
	}
}

func TestADescriptorVerifiesItsBytes(t *testing.T) {
	d := storage.Descriptor{Digest: digest.SHA512.FromString("claim").String(), Size: 5}
	if err := d.Verify([]byte("claim")); err != nil {
		t.Error(err)
	}
	for _, b := range []string{"clai", "claims", "CLAIM", ""} {
		if d.Verify([]byte(b)) == nil {
			t.Errorf("%q passes", b)
		}
	}
	if (storage.Descriptor{Digest: "md5:x", Size: 1}).Verify([]byte("x")) == nil {
		t.Error("a digest that is none passes")
	}
}

// Whatever comes, what is found can be fetched by its digest and is of a size.
func FuzzSubmission(f *testing.F) {
	f.Add(submission())
	f.Add(submission(with("layers", nil)))
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, manifest []byte) {
		s, ok, err := storage.ParseSubmission(manifest)
		if !ok || err != nil {
			return
		}
		for _, d := range []storage.Descriptor{s.Subject, s.Statement} {
			if _, err := digest.Parse(d.Digest); err != nil || d.Size < 0 {
				t.Errorf("%+v: %v", d, err)
			}
		}
	})
}
