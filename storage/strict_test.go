package storage_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/scittd/scittd/storage"
)

func TestAManifestReadsInOneWayOrIsRefused(t *testing.T) {
	const dig = `"digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"`
	for name, c := range map[string]struct{ manifest, err string }{
		"an image":                      {` {"schemaVersion":2,"mediaType":"a/b","config":{"mediaType":"a/b",` + dig + `,"size":2},"layers":[{` + dig + `},{` + dig + `,"urls":["x"]}]}`, ""},
		"an index":                      {`{"schemaVersion":2,"manifests":[{` + dig + `,"platform":{"os":"linux"},"annotations":{"a":"b"}}],"annotations":{}}`, ""},
		"what nobody looks at":          {`{"schemaVersion":2,"x":1,"X":{"digest":1},"x":[]}`, ""},
		"members that are null":         {`{"schemaVersion":2,"config":null,"subject":null,"layers":null,"manifests":null,"annotations":null}`, ""},
		"annotations in other letters":  {`{"schemaVersion":2,"annotations":{"a":"b","A":"c"}}`, ""},
		"nothing":                       {``, "not JSON"},
		"half of it":                    {`{"schemaVersion":2`, "not JSON"},
		"two of them":                   {`{"schemaVersion":2}{}`, "not JSON"},
		"not UTF-8":                     {"{\"schemaVersion\":2,\"x\":\"\xff\"}", "not UTF-8"},
		"null":                          {`null`, "not an object"},
		"an array":                      {`[{"schemaVersion":2}]`, "not an object"},
		"no version":                    {`{}`, "no schemaVersion"},
		"another version":               {`{"schemaVersion":1,"name":"a","fsLayers":[]}`, "schemaVersion is 1"},
		"half a version":                {`{"schemaVersion":2.5}`, "decode"},
		"a type that is none":           {`{"schemaVersion":2,"artifactType":7}`, "decode"},
		"twice":                         {`{"schemaVersion":2,"subject":{` + dig + `},"subject":null}`, `"subject" is there twice`},
		"twice, escaped":                {`{"schemaVersion":2,"subject":null,"\u0073ubject":{` + dig + `}}`, `"subject" is there twice`},
		"in other letters":              {`{"schemaVersion":2,"SUBJECT":{` + dig + `}}`, `"SUBJECT" is there, which some take for "subject"`},
		"in letters of other alphabets": {`{"schemaVersion":2,"ſubject":{` + dig + `}}`, "which some take"},
		"within a descriptor":           {`{"schemaVersion":2,"layers":[{` + dig + `},{` + dig + `,"mediatype":"a/b"}]}`, "layers: 1: "},
		"evidence twice":                {`{"schemaVersion":2,"annotations":{"` + storage.EvidenceAnnotation + `":"a","` + storage.EvidenceAnnotation + `":"b"}}`, "annotations: "},
		"an annotation that is no text": {`{"schemaVersion":2,"annotations":{"a":1}}`, "decode"},
		"one of a layer, too":           {`{"schemaVersion":2,"layers":[{` + dig + `,"annotations":{"a":1}}]}`, "decode"},
		"layers that are none":          {`{"schemaVersion":2,"layers":{}}`, "layers: {} is not an array"},
		"a config that is none":         {`{"schemaVersion":2,"config":"sha256:x"}`, "config: "},
		"a config that climbs":          {`{"schemaVersion":2,"config":{"digest":"sha256:../../etc/passwd"}}`, "config: digest: "},
		"a subject without digest":      {`{"schemaVersion":2,"subject":{}}`, "subject: there is no digest"},
		"a subject that is text":        {`{"schemaVersion":2,"subject":"x"}`, "subject: "},
		"a digest that is null":         {`{"schemaVersion":2,"subject":{"digest":null}}`, "not a string"},
		"a digest that does not parse":  {`{"schemaVersion":2,"manifests":[{"digest":"sha256:xyz"}]}`, "manifests: 0: digest: "},
		"a size below 0":                {`{"schemaVersion":2,"subject":{` + dig + `,"size":-1}}`, "-1 is no size"},
		"half a size":                   {`{"schemaVersion":2,"subject":{` + dig + `,"size":0.5}}`, "no size"},
	} {
		err := storage.CheckManifest([]byte(c.manifest))
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %v, want %q", name, err, c.err)
		}
	}
}

// What passes is for a lax reader what it is for a strict one.
func FuzzCheckManifest(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"subject":null,"Subject":{"digest":"sha256:00"}}`))
	f.Add([]byte(`{"schemaVersion":2,"layers":[{"digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}]}`))
	f.Add([]byte(`{"\u0053ubject":[{"a":"\\\""}], "x" : true }`))
	f.Fuzz(func(t *testing.T, manifest []byte) {
		if storage.CheckManifest(manifest) != nil {
			return
		}
		var lax struct {
			SchemaVersion     int
			ArtifactType      string
			Config, Subject   *storage.Descriptor
			Layers, Manifests []storage.Descriptor
		}
		var exact map[string]json.RawMessage
		if err := json.Unmarshal(manifest, &lax); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(manifest, &exact); err != nil {
			t.Fatal(err)
		}
		present := func(name string) bool { v, ok := exact[name]; return ok && string(v) != "null" }
		if lax.SchemaVersion != 2 || (lax.Subject != nil) != present("subject") || (lax.Config != nil) != present("config") ||
			(lax.Layers != nil) != present("layers") || (lax.Manifests != nil) != present("manifests") || lax.ArtifactType != "" && !present("artifactType") {
			t.Errorf("%s reads as %+v", manifest, lax)
		}
	})
}
