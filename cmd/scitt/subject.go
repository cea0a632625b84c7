package main

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/scittd/scittd/statement"
	"github.com/scittd/scittd/storage"
)

// subject is what a command line means by SUBJECT: an artifact with a digest,
// or just a name.
type subject struct {
	text   string
	name   string           // SCITT's sub when a statement is made about it
	digest statement.Digest // "" when only a name is known
	opened bool             // the digest is of bytes that were read here

	// Set when it lies in a registry.
	tag   string            // it was named by; "" when by digest
	index bool              // it is an image index
	image storage.Reference // by digest
	repo  storage.Repository
}

// warnMoving says which bytes a claim is made about when a tag named them.
func (a *app) warnMoving(s subject) {
	if s.tag != "" {
		a.warn("tag %s can move; using %s", s.tag, s.digest)
	}
}

var (
	bareHex     = regexp.MustCompile(`^[0-9a-f]{64}$`)
	abbreviated = regexp.MustCompile(`^[0-9a-f]{8,63}$`)
	digestish   = regexp.MustCompile(`(?i)^(md5|sha[0-9]+):`)
	uri         = regexp.MustCompile(`^(pkg|did|urn):|^[a-z][a-z0-9+.-]*://`)
)

// subject resolves what people type. An image is looked up in its registry,
// with a warning when a tag was used, for tags move. What looks like a digest
// and is none is refused: searching for it would find nothing and look clean.
func (a *app) subject(ctx context.Context, text string) (subject, error) {
	if file, ok := strings.CutPrefix(text, "file:"); ok {
		digest, _, err := digestFile(file, "sha256")
		if err != nil {
			return subject{}, missing(err, text)
		}
		return subject{text: text, name: string(digest), digest: digest, opened: true}, nil
	}
	if layout, ok := strings.CutPrefix(text, "oci-layout:"); ok {
		return inLayout(text, layout)
	}
	if bareHex.MatchString(text) {
		text = "sha256:" + text
	}
	if digest, err := statement.ParseDigest(text); err == nil {
		return subject{text: text, name: string(digest), digest: digest}, nil
	}
	if digestish.MatchString(text) {
		return subject{}, usage("%q is not a digest", text).line("Want", "sha256: and 64 lower-case hex digits, or likewise sha384:, sha512:")
	}
	if uri.MatchString(text) {
		return subject{text: text, name: text, digest: digestIn(text)}, nil
	}
	ref, err := storage.ParseReference(text)
	if err != nil {
		f := usage("%w", err).line("Want", "an image reference, a digest, file:PATH, oci-layout:DIR@DIGEST or a URI")
		if abbreviated.MatchString(text) {
			f.try("scitt query --full shows entry IDs and digests whole")
		}
		return subject{}, f
	}
	return a.resolve(ctx, text, ref)
}

func missing(err error, text string) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fail(exitNoSubject, "%s does not exist", text)
	}
	return usage("%s: %w", text, err)
}

// inLayout finds DIR@DIGEST in an OCI image layout and reads it to its end.
func inLayout(text, layout string) (subject, error) {
	dir, version, _ := strings.Cut(layout, "@")
	digest, err := statement.ParseDigest(version)
	if err != nil {
		return subject{}, usage("%q is not oci-layout:DIR@DIGEST: %w", text, err)
	}
	_, hex, _ := strings.Cut(version, ":")
	got, _, err := digestFile(filepath.Join(dir, "blobs", digest.Algorithm(), hex), digest.Algorithm())
	if err != nil {
		return subject{}, missing(err, text)
	}
	if got != digest {
		return subject{}, fail(exitInvalid, "%s is damaged", text).line("Want", "%s", digest).line("Got", "%s", got)
	}
	return subject{text: text, name: version, digest: digest, opened: true}, nil
}

// digestIn is the digest that a URI itself names, such as a purl's; "" for none.
func digestIn(uri string) statement.Digest {
	_, version, _ := strings.Cut(uri, "@")
	version, _, _ = strings.Cut(version, "?")
	version, err := url.PathUnescape(version)
	if err != nil {
		return ""
	}
	digest, err := statement.ParseDigest(version)
	if err != nil {
		return ""
	}
	return digest
}

// resolve asks the registry which digest a reference means now.
func (a *app) resolve(ctx context.Context, text string, ref storage.Reference) (subject, error) {
	registry, err := a.registry(ref.Host)
	if err != nil {
		return subject{}, err
	}
	repo, desc, err := storage.Resolve(ctx, registry, ref)
	if errors.Is(err, storage.ErrNotFound) {
		return subject{}, fail(exitNoSubject, "%s does not exist", text).
			try("an image that was purged can still be asked for by its digest, sha256:...")
	}
	if err != nil {
		return subject{}, fmt.Errorf("look up %s: %w", text, err)
	}
	digest, err := statement.ParseDigest(desc.Digest)
	if err != nil {
		return subject{}, fmt.Errorf("the registry's digest of %s: %w", text, err)
	}
	// A location-free purl keeps the claim true after promotion.
	name := fmt.Sprintf("pkg:oci/%s@%s", path.Base(ref.Repository), digest)
	return subject{text: text, name: name, digest: digest, opened: true, tag: ref.Tag, index: storage.IsIndexType(desc.MediaType),
		image: ref.At(desc.Digest), repo: repo}, nil
}

// digestFile hashes a file without holding it in memory.
func digestFile(file, algorithm string) (statement.Digest, int64, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	h := map[string]func() hash.Hash{"sha256": sha256.New, "sha384": sha512.New384, "sha512": sha512.New}[algorithm]()
	n, err := io.Copy(h, f)
	if err != nil {
		return "", 0, err
	}
	digest, err := statement.DigestFromBytes(h.Sum(nil))
	return digest, n, err
}
