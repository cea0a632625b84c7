package storage_test

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/scittd/scittd/storage"
)

func TestAnIndexListsItsManifestsAndNothingElse(t *testing.T) {
	a, b := digest.FromString("a").String(), digest.FromString("b").String()
	const index = `"mediaType":"application/vnd.oci.image.index.v1+json",`
	for name, c := range map[string]struct {
		body string
		want []string
	}{
		"an index":            {`{` + index + `"manifests":[{"digest":"` + a + `"},{"digest":"` + b + `","platform":{"os":"linux"}},{"digest":"` + a + `"}]}`, []string{a, b}},
		"docker's list":       {`{"mediaType":"application/vnd.docker.distribution.manifest.list.v2+json","manifests":[{"digest":"` + a + `"}]}`, []string{a}},
		"without mediaType":   {`{"manifests":[{"digest":"` + a + `"}]}`, []string{a}},
		"a list of artifacts": {`{` + index + `"manifests":[{"digest":"` + a + `","artifactType":"application/spdx+json"}]}`, nil},
		"bad digests":         {`{` + index + `"manifests":[{"digest":"sha256:x"},{"digest":"../../x"},{},{"digest":"` + b + `"}]}`, []string{b}},
		"image and index":     {`{` + index + `"config":{},"manifests":[{"digest":"` + a + `"}]}`, nil},
		"an image":            {`{"mediaType":"application/vnd.oci.image.manifest.v1+json","manifests":[{"digest":"` + a + `"}]}`, nil},
		"no JSON":             {`manifests`, nil},
		"other types":         {`{"manifests":{"digest":"` + a + `"}}`, nil},
		"nothing":             {``, nil},
	} {
		if got := storage.Listed([]byte(c.body)); !slices.Equal(got, c.want) {
			t.Errorf("%s lists %v, want %v", name, got, c.want)
		}
	}
	var huge bytes.Buffer
	huge.WriteString(`{"manifests":[{"digest":"` + a + `"}`)
	for i := range 100_000 {
		fmt.Fprintf(&huge, `,{"digest":"sha256:%064x"}`, i)
	}
	huge.WriteString(`]}`)
	if n := len(storage.Listed(huge.Bytes())); n != 100_001 {
		t.Errorf("an index of 100,001 lists %d", n)
	}
}

func TestWhatAManifestCarriesIsReadFromIt(t *testing.T) {
	a, b := digest.FromString("a").String(), digest.FromString("b").String()
	got := storage.ReadAttached([]byte(`{"subject":{"digest":"` + a + `"},"layers":[{"digest":"` + b + `","size":7}]}`))
	if got.Subject != a || len(got.Layers) != 1 || got.Layers[0].Digest != b || got.Layers[0].Size != 7 {
		t.Errorf("read %+v", got)
	}
	for _, none := range []string{``, `{}`, `[]`, `{"subject":{"digest":"sha256:x"}}`, `{"layers":[{"digest":"` + b + `"}]}`} {
		if got := storage.ReadAttached([]byte(none)); got.Subject != "" || got.Layers != nil {
			t.Errorf("%q carries %+v", none, got)
		}
	}
}
