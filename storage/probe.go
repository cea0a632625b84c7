package storage

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote/auth"
)

// Report is how a repository behaved when it was tried out. Strings are sentences
// without a full stop, or "" for what could not be tried.
type Report struct {
	Registry    string `json:"registry"`
	Repository  string `json:"repository"`
	Profile     string `json:"profile"`     // the row that goes by its host, "" for none
	EmptyConfig string `json:"emptyConfig"` // whether artifacts may have the empty config
	Subject     string `json:"ociSubject"`  // what the answer to a push promised
	API         string `json:"referrersApi"`
	Filter      string `json:"filter"`
	Paging      string `json:"paging"`
	Tag         string `json:"referrersTag"`
	Manifest    int    `json:"largestManifest"` // bytes that were taken, of 64 KiB, 1 MiB and 4 MiB
	Delete      string `json:"delete"`
	AfterDelete string `json:"subjectDeleted"` // what becomes of referrers
	Left        int    `json:"left"`           // manifests that could not be deleted again
	// Advice is what a rule for this host should say, "" if nothing.
	Advice string `json:"advice"`
	Note   string `json:"note"`
}

// Probe tries a repository out: it pushes a small artifact and others that refer
// to it, looks at what is listed, and deletes all of it again, if it may. It
// needs the right to push. Nothing that it pushes is tagged, except the list
// under the referrers tag of its own artifact where there is no API. The waits
// for a list that is slow to come are p's.
func (p Placer) Probe(ctx context.Context, r *Remote, repository string) (Report, error) {
	repo, err := r.repository(repository)
	if err != nil {
		return Report{}, err
	}
	out := Report{Registry: r.host, Repository: repository, Profile: r.profile.Name, Note: r.profile.Note}
	t := &trial{Placer: p, repo: repo, out: &out, config: ocispec.DescriptorEmptyJSON}
	if err := t.run(ctx); err != nil {
		return out, fmt.Errorf("probe %s/%s: %w", r.host, repository, err)
	}
	return out, nil
}

// Types of what a probe pushes. The first is what is referred to.
const (
	probeType  = "application/vnd.scittd.probe"
	probeTypeA = "application/vnd.scittd.probe.a"
	probeTypeB = "application/vnd.scittd.probe.b"
)

// trial is one probe. Everything it pushes is new, by a random annotation.
type trial struct {
	Placer
	repo   *repository
	out    *Report
	config ocispec.Descriptor
	pushed []digest.Digest
	advice []string
}

func (t *trial) run(ctx context.Context) error {
	defer func() { t.out.Advice = strings.Join(t.advice, " ") }()
	if err := pushBytes(ctx, t.repo, ocispec.DescriptorEmptyJSON.Data); err != nil {
		return err
	}
	subject, err := t.first(ctx)
	if err != nil {
		return err
	}
	defer t.clean(ctx)
	watch := &subjectWatch{Client: t.repo.remote.client}
	a, err := t.push(ctx, watch, probeTypeA, &subject, 0)
	if err != nil {
		t.out.API = "refuses manifests with a subject: " + err.Error()
		return nil
	}
	t.out.Subject = "not promised"
	if watch.seen {
		t.out.Subject = "promised by OCI-Subject"
	}
	b, err := t.push(ctx, watch, probeTypeB, &subject, 0)
	if err != nil {
		return err
	}
	listed, err := t.lists(ctx, subject.Digest, a, b)
	if err == nil && listed {
		err = errors.Join(t.filters(ctx, subject.Digest, a), t.pages(ctx, subject.Digest))
	} else if err == nil {
		err = t.tags(ctx, subject.Digest, a, b)
	}
	if err != nil {
		return err
	}
	if err := t.sizes(ctx); err != nil {
		return err
	}
	return t.deletes(ctx, subject, a, b)
}

// push pushes an artifact padded by so many bytes. It may be told to watch the
// answer.
func (t *trial) push(ctx context.Context, watch *subjectWatch, artifactType string, subject *ocispec.Descriptor, padding int) (ocispec.Descriptor, error) {
	body, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: artifactType,
		Config: t.config, Layers: []ocispec.Descriptor{ocispec.DescriptorEmptyJSON}, Subject: subject,
		Annotations: map[string]string{annotationPrefix + "probe": rand.Text(), annotationPrefix + "padding": strings.Repeat("x", padding)},
	})
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(body), Size: int64(len(body))}
	to := t.repo.api
	if watch != nil {
		to = t.repo.open(watch)
	}
	if err := to.PushReference(ctx, desc, bytes.NewReader(body), desc.Digest.String()); err != nil {
		return desc, t.repo.failure("push to", "push a manifest to "+t.repo.name(), err)
	}
	t.pushed = append(t.pushed, desc.Digest)
	return desc, nil
}

// first pushes what the others refer to, with the empty config if that is taken.
func (t *trial) first(ctx context.Context) (ocispec.Descriptor, error) {
	subject, err := t.push(ctx, nil, probeType, nil, 0)
	t.out.EmptyConfig = "taken"
	if !errors.Is(err, ErrRefused) {
		return subject, err
	}
	t.out.EmptyConfig = "refused: " + err.Error()
	t.config = Profile{ConfigMediaType: ocispec.MediaTypeImageConfig}.config()
	if subject, err = t.push(ctx, nil, probeType, nil, 0); err == nil && t.repo.profile().ConfigMediaType == "" {
		t.advice = append(t.advice, "config_media_type="+ocispec.MediaTypeImageConfig)
	}
	return subject, err
}

// lists looks whether the API shows both, at once or as long as placing waits.
func (t *trial) lists(ctx context.Context, subject digest.Digest, a, b ocispec.Descriptor) (bool, error) {
	waited := time.Duration(0)
	for _, d := range []time.Duration{0, 200 * time.Millisecond, time.Second, 5 * time.Second} {
		if waited += d; d > 0 {
			if err := t.wait(ctx, d); err != nil {
				return false, err
			}
		}
		found, err := t.repo.byAPI(ctx, subject)
		switch {
		case err != nil && noAPI(err):
			t.out.API = "absent"
			return false, nil
		case err != nil:
			return false, t.repo.failure("pull from", "list referrers", err)
		case !contains(found, a.Digest.String()) || !contains(found, b.Digest.String()):
			continue
		}
		t.out.API = "lists what was pushed"
		if waited > 0 {
			t.out.API += fmt.Sprintf(", after %s", waited)
		}
		for _, d := range found {
			if d.ArtifactType != probeTypeA && d.ArtifactType != probeTypeB || d.Annotations[annotationPrefix+"probe"] == "" {
				t.out.API += "; entries lack type or annotations"
				break
			}
		}
		return true, nil
	}
	t.out.API = "answers, and does not list what was pushed"
	return false, nil
}

// ask reads a page of the API as it comes.
func (t *trial) ask(ctx context.Context, subject digest.Digest, query string) (http.Header, []ocispec.Descriptor, error) {
	ctx = auth.AppendRepositoryScope(ctx, t.repo.ref, auth.ActionPull)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.repo.url("referrers/"+subject.String()).String()+"?"+query, nil)
	if err != nil {
		return nil, nil, err
	}
	resp, err := t.repo.remote.client.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, nil, answered(resp)
	}
	var page ocispec.Index
	err = json.NewDecoder(io.LimitReader(resp.Body, maxManifest)).Decode(&page)
	return resp.Header, page.Manifests, err
}

func (t *trial) filters(ctx context.Context, subject digest.Digest, a ocispec.Descriptor) error {
	header, page, err := t.ask(ctx, subject, "artifactType="+url.QueryEscape(probeTypeA))
	switch {
	case status(err) != 0:
		t.out.Filter = fmt.Sprintf("refused: answered %d", status(err))
		return nil
	case err != nil:
		return err
	case len(page) == 1 && page[0].Digest == a.Digest && header.Get("OCI-Filters-Applied") != "":
		t.out.Filter = "applied"
	case len(page) == 1 && page[0].Digest == a.Digest:
		t.out.Filter = "applied, without saying so"
	case header.Get("OCI-Filters-Applied") != "":
		t.out.Filter = "wrong, although it says that it is applied"
	default:
		t.out.Filter = "ignored"
	}
	return nil
}

func (t *trial) pages(ctx context.Context, subject digest.Digest) error {
	header, page, err := t.ask(ctx, subject, "n=1")
	switch {
	case status(err) != 0:
		t.out.Paging = fmt.Sprintf("refused: answered %d", status(err))
		return nil
	case err != nil:
		return err
	case len(page) == 1 && header.Get("Link") != "":
		t.out.Paging = "as asked for"
	case len(page) == 1:
		t.out.Paging = "cut, without a link to the rest"
	default:
		t.out.Paging = "its own"
	}
	return nil
}

// tags keeps a list under the referrers tag, and writes it again.
func (t *trial) tags(ctx context.Context, subject digest.Digest, a, b ocispec.Descriptor) error {
	for i, d := range []ocispec.Descriptor{a, b} {
		err := t.repo.failure("push to", "write the referrers tag", t.repo.tag(ctx, subject, fromOCI(d)))
		switch {
		case errors.Is(err, ErrRefused) && i == 0:
			t.out.Tag = "refused: " + err.Error()
			if t.repo.profile().IndexPlatform == "" && strings.Contains(err.Error(), "platform") {
				t.advice = append(t.advice, "index_platform=unknown/unknown")
			}
			return nil
		case errors.Is(err, ErrRefused):
			t.out.Tag = "cannot be written again: " + err.Error()
			t.advice = append(t.advice, "referrers=off")
			return nil
		case err != nil:
			return err
		}
		if _, index, err := t.repo.tagged(ctx, subject); err == nil && index != "" {
			t.pushed = append(t.pushed, index)
		}
	}
	t.out.Tag = "works"
	if list, _, err := t.repo.tagged(ctx, subject); err != nil || len(list.Manifests) != 2 {
		t.out.Tag = fmt.Sprintf("lists %d of 2 after both were written", len(list.Manifests))
	}
	return nil
}

// sizes finds out how large a manifest may be.
func (t *trial) sizes(ctx context.Context) error {
	const rest = 4 << 10 // what a manifest has besides its padding, and some
	for _, size := range []int{64 << 10, 1 << 20, maxManifest} {
		desc, err := t.push(ctx, nil, probeType, nil, size-rest)
		switch {
		case err == nil:
			t.out.Manifest = int(desc.Size)
		case errors.Is(err, ErrRefused):
			if t.out.Manifest > 0 {
				t.advice = append(t.advice, fmt.Sprintf("max_manifest=%d", t.out.Manifest))
			}
			return nil
		default:
			return err
		}
	}
	return nil
}

// deletes removes one referrer, and then what both refer to.
func (t *trial) deletes(ctx context.Context, subject, a, b ocispec.Descriptor) error {
	if err := t.delete(ctx, b.Digest); err != nil {
		t.out.Delete = "not allowed: " + err.Error()
		return nil
	}
	t.out.Delete = "works"
	if err := t.delete(ctx, subject.Digest); err != nil {
		t.out.AfterDelete = "not allowed: " + err.Error()
		return nil
	}
	_, _, err := t.repo.Manifest(ctx, a.Digest.String())
	switch {
	case err == nil:
		t.out.AfterDelete = "referrers stay"
	case errors.Is(err, ErrNotFound):
		t.out.AfterDelete = "referrers go with it: configure an archive repository"
	default:
		return err
	}
	return nil
}

// clean deletes what is left, as far as that is allowed.
func (t *trial) clean(ctx context.Context) {
	for _, d := range t.pushed {
		if t.delete(ctx, d) != nil {
			t.out.Left++
		}
	}
}

// delete leaves lists as they are: they go, too.
func (t *trial) delete(ctx context.Context, d digest.Digest) error {
	return t.repo.delete(ctx, "delete manifest "+d.String(), t.repo.api.Manifests(), ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: d})
}
