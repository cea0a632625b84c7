package front

import "testing"

func TestEntriesThatAreNoDescriptorsAreLeftOut(t *testing.T) {
	const d = `"digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"`
	const m = `"mediaType":"application/vnd.oci.image.manifest.v1+json"`
	for _, tt := range []struct {
		entry      string
		kept, poor bool
	}{
		{`{` + m + `,` + d + `,"size":7,"artifactType":"a/b","annotations":{}}`, true, false},
		{`{` + m + `,` + d + `,"size":7,"artifactType":"a/b","annotations":{"k":"v"},"platform":{"os":"linux","architecture":"amd64"},"x":{}}`, true, false},
		{`{` + m + `,` + d + `,"size":7,"artifactType":"a/b"}`, true, true},
		{`{` + m + `,` + d + `,"size":7,"artifactType":"a/b","annotations":null}`, true, true},
		{`{` + m + `,` + d + `,"size":7,"annotations":{}}`, true, true},
		{`{` + m + `,` + d + `,"size":7,"artifactType":"application\/vnd.oci.empty.v1+json","annotations":{}}`, true, true},
		{`{` + m + `,` + d + `}`, true, true},
		{`{` + d + `,"size":7}`, false, false},
		{`{` + m + `,"size":7}`, false, false},
		{`{` + m + `,"digest":"sha256:abc"}`, false, false},
		{`{` + m + `,"digest":7}`, false, false},
		{`{` + m + `,` + d + `,"size":"7"}`, false, false},
		{`{` + m + `,` + d + `,"size":7.5}`, false, false},
		{`{` + m + `,` + d + `,"annotations":{"k":1}}`, false, false},
		{`{` + m + `,` + d + `,"annotations":[]}`, false, false},
		{`{` + m + `,` + d + `,"artifactType":{}}`, false, false},
		{`{` + m + `,` + d + `,"platform":"linux"}`, false, false},
		{`{` + m + `,` + d + `,"urls":[1]}`, false, false},
		{`"sha256"`, false, false}, {`null`, false, false}, {`[]`, false, false}, {`7`, false, false}, {`{}`, false, false},
	} {
		list, ok := parseList([]byte(`{"schemaVersion":2,"manifests":[`+tt.entry+` , `+tt.entry+`]}`), true)
		if want := 0; !ok || len(list) != want && !tt.kept || tt.kept && (len(list) != 1 || list[0].poor != tt.poor || string(list[0].raw) != tt.entry) {
			t.Errorf("%s: %+v, %v; want it kept once: %v, to be read: %v", tt.entry, list, ok, tt.kept, tt.poor)
		}
	}
	for _, body := range []string{``, `<html>`, `[]`, `{}`, `{"manifests":{}}`, `{"manifests":null}`, `{"mediaType":"x/y","manifests":[]}`, `{"manifests":[]`} {
		if list, ok := parseList([]byte(body), true); ok {
			t.Errorf("%s is a list: %+v", body, list)
		}
	}
}
