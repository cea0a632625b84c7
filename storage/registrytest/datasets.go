package registrytest

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/json"
	"fmt"
	"strings"
)

const (
	imageType   = "application/vnd.oci.image.manifest.v1+json"
	indexType   = "application/vnd.oci.image.index.v1+json"
	configType  = "application/vnd.oci.image.config.v1+json"
	layerType   = "application/vnd.oci.image.layer.v1.tar"
	emptyType   = "application/vnd.oci.empty.v1+json"
	exampleType = "application/vnd.example.test.v"
)

func digestOf(algorithm string, b []byte) string {
	if algorithm == "sha512" {
		return fmt.Sprintf("sha512:%x", sha512.Sum512(b))
	}
	return fmt.Sprintf("sha256:%x", sha256.Sum256(b))
}

// descriptor as a manifest has it, or a referrers list.
type descriptor struct {
	MediaType    string            `json:"mediaType"`
	Digest       string            `json:"digest"`
	Size         int               `json:"size"`
	ArtifactType string            `json:"artifactType,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
	URLs         []string          `json:"urls,omitempty"`
	Data         []byte            `json:"data,omitempty"`
	Platform     map[string]string `json:"platform,omitempty"`
}

// image describes a manifest to build.
type image struct {
	config       []byte // nil: a random image configuration
	configType   string
	layers       [][]byte // nil: two random ones
	layerType    string
	foreign      []descriptor // layers that are elsewhere
	artifactType string
	annotations  map[string]string
	subject      *built
	inline       bool // data fields
	custom       bool // members that no specification knows
}

// built is a manifest with what it needs.
type built struct {
	digest, mediaType string
	body              []byte
	config            []byte
	blobs             [][]byte
	subject           string // "" without
	listed            descriptor
}

func (m image) build(algorithm string) built {
	if m.config == nil {
		m.config = fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","author":"%x"}`, random(16))
	}
	if m.configType == "" {
		m.configType = configType
	}
	if m.layers == nil {
		m.layers = [][]byte{random(512), random(512)}
	}
	if m.layerType == "" {
		m.layerType = layerType
	}
	describe := func(mediaType string, b []byte) descriptor {
		d := descriptor{MediaType: mediaType, Digest: digestOf(algorithm, b), Size: len(b)}
		if m.inline {
			d.Data = b
		}
		return d
	}
	layers := append([]descriptor{}, m.foreign...)
	for _, l := range m.layers {
		layers = append(layers, describe(m.layerType, l))
	}
	document := map[string]any{"mediaType": imageType, "config": describe(m.configType, m.config), "layers": layers}
	b := built{mediaType: imageType, config: m.config, blobs: append([][]byte{m.config}, m.layers...)}
	b.listed.ArtifactType = m.configType
	b.finish(algorithm, document, m.artifactType, m.annotations, m.subject, m.custom)
	return b
}

// index is built of manifests that are there, or are not.
func index(algorithm string, of []built, m image) built {
	manifests := []descriptor{}
	for _, one := range of {
		manifests = append(manifests, descriptor{
			MediaType: one.mediaType, Digest: one.digest, Size: len(one.body), Platform: map[string]string{"os": "linux", "architecture": "amd64"},
		})
	}
	b := built{mediaType: indexType}
	b.finish(algorithm, map[string]any{"mediaType": indexType, "manifests": manifests}, m.artifactType, m.annotations, m.subject, m.custom)
	return b
}

// finish adds what image and index have in common and makes the bytes.
func (b *built) finish(algorithm string, document map[string]any, artifactType string, annotations map[string]string, subject *built, custom bool) {
	document["schemaVersion"] = 2
	if artifactType != "" {
		document["artifactType"] = artifactType
		b.listed.ArtifactType = artifactType
	}
	if annotations != nil {
		document["annotations"] = annotations
		b.listed.Annotations = annotations
	}
	if subject != nil {
		document["subject"] = descriptor{MediaType: subject.mediaType, Digest: subject.digest, Size: len(subject.body)}
		b.subject = subject.digest
	}
	if custom {
		document["org.example."+fmt.Sprintf("%x", random(4))] = map[string]any{"Digest": []int{1, 2}, "x": nil}
	}
	b.body, _ = json.Marshal(document) // maps and strings always marshal
	b.digest = digestOf(algorithm, b.body)
	b.listed.MediaType, b.listed.Digest, b.listed.Size = b.mediaType, b.digest, len(b.body)
}

// dataset is content that makes one round trip.
type dataset struct {
	name      string
	algorithm string
	manifests []built           // in the order of pushing
	tags      map[string]string // tag to digest
	byQuery   bool              // tags are set with the push by digest
}

func newDataset(name string, tagged built, others ...built) dataset {
	tag := strings.ReplaceAll(name, " ", "-")
	return dataset{name: name, algorithm: "sha256", manifests: append(others, tagged), tags: map[string]string{tag: tagged.digest}}
}

func datasets() []dataset {
	plain := func() built { return image{}.build("sha256") }
	artifact := image{artifactType: exampleType + "1", configType: emptyType, config: []byte("{}"), layerType: exampleType + "1"}
	annotated := func(n int, subject *built) image {
		m := artifact
		m.artifactType = fmt.Sprint(exampleType, n)
		m.annotations = map[string]string{"org.example.test": "hello", "org.example.unique": fmt.Sprintf("%x", random(8))}
		m.subject = subject
		return m
	}
	large := map[string]string{}
	for i := range 390 {
		large[fmt.Sprint("large-annotation-", i)] = strings.Repeat("A", 10_000)
	}
	elsewhere := digestOf("sha256", random(8))
	foreign := []descriptor{{
		MediaType: "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", Digest: elsewhere, Size: 123456,
		URLs: []string{"https://store.example.com/blobs/sha256/" + elsewhere},
	}}
	bare := artifact
	bare.layers, bare.layerType = [][]byte{[]byte("{}")}, emptyType

	p1, p2 := plain(), plain()
	n1, n2, n3, n4 := plain(), plain(), plain(), plain()
	i1, i2 := index("sha256", []built{n1, n2}, image{}), index("sha256", []built{n3, n4}, image{})
	a1, a2 := artifact.build("sha256"), artifact.build("sha256")

	subject := plain()
	fromConfig := image{subject: &subject}.build("sha256")
	first, second := annotated(1, &subject).build("sha256"), annotated(2, &subject).build("sha256")
	s1 := plain()
	subjectIndex := index("sha256", []built{s1}, image{})
	referringIndex := index("sha256", []built{a1}, annotated(1, &subjectIndex))
	missing := image{}.build("sha256") // never pushed
	custom := image{custom: true}.build("sha256")

	sets := []dataset{
		newDataset("image", plain()),
		newDataset("large manifest", image{annotations: large}.build("sha256")),
		newDataset("index", index("sha256", []built{p1, p2}, image{}), p1, p2),
		newDataset("nested index", index("sha256", []built{i1, i2}, image{}), n1, n2, i1, n3, n4, i2),
		newDataset("empty index", index("sha256", nil, image{})),
		newDataset("artifact", artifact.build("sha256")),
		newDataset("artifact index", index("sha256", []built{a1, a2}, image{artifactType: exampleType + "1"}), a1, a2),
		newDataset("artifact without layers", bare.build("sha256")),
		newDataset("referrers", subject, fromConfig, first, second),
		newDataset("index with subject", subjectIndex, s1, a1, referringIndex),
		newDataset("missing subject", annotated(1, &missing).build("sha256")),
		newDataset("data field", image{inline: true}.build("sha256")),
		newDataset("layers elsewhere", image{foreign: foreign}.build("sha256")),
		newDataset("custom members", index("sha256", []built{custom}, image{custom: true}), custom),
		newDataset("no layers", image{layers: [][]byte{}}.build("sha256")),
	}
	for _, algorithm := range []string{"sha256", "sha512"} {
		one := image{}.build(algorithm)
		both := index(algorithm, []built{one}, image{})
		tags := map[string]string{}
		for i := range 10 {
			tags[fmt.Sprint("by-query-", algorithm, "-", i)] = both.digest
		}
		tags["by-query-one"] = one.digest
		sets = append(sets, dataset{
			name: "tags by query " + algorithm, algorithm: algorithm, manifests: []built{one, both}, tags: tags, byQuery: true,
		})
	}
	s5 := image{}.build("sha512")
	sets = append(sets, dataset{name: "sha512", algorithm: "sha512", manifests: []built{s5, index("sha512", []built{s5}, image{subject: &s5})}})
	return sets
}
