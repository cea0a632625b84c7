package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// spent is CPU by who used it.
type spent struct{ registry, scittd, client time.Duration }

func (s spent) all() time.Duration { return s.registry + s.scittd + s.client }

func (s *spent) add(t spent, sign time.Duration) {
	s.registry += sign * t.registry
	s.scittd += sign * t.scittd
	s.client += sign * t.client
}

// layer is a gzipped tar file.
type layer struct{ digest, diffID string }

// pushImage pushes an image whose layers hold the binary under test, each with a
// few bytes of its own.
func (b *bench) pushImage(ctx context.Context, to *door) ([]layer, error) {
	binary, err := os.ReadFile(b.scittd)
	if err != nil {
		return nil, err
	}
	var layers []layer
	var listed []string
	for n := range b.layers {
		var packed bytes.Buffer
		diffID, blobID := sha256.New(), sha256.New()
		zipped := gzip.NewWriter(io.MultiWriter(&packed, blobID))
		files := tar.NewWriter(io.MultiWriter(zipped, diffID))
		for name, content := range map[string][]byte{"scittd": binary, "layer": {byte(n)}} {
			if err := files.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(content))}); err != nil {
				return nil, err
			}
			if _, err := files.Write(content); err != nil {
				return nil, err
			}
		}
		if err := files.Close(); err != nil {
			return nil, err
		}
		if err := zipped.Close(); err != nil {
			return nil, err
		}
		l := layer{digestOf(blobID), digestOf(diffID)}
		if err := to.push(ctx, bytes.NewReader(packed.Bytes()), packed.Len(), func() string { return l.digest }); err != nil {
			return nil, err
		}
		b.packed += packed.Len()
		layers = append(layers, l)
		listed = append(listed, fmt.Sprintf(`{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":%q,"size":%d}`, l.digest, packed.Len()))
	}
	config, err := to.pushNoise(ctx, 3, 100)
	if err != nil {
		return nil, err
	}
	manifest := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":100},"layers":[%s]}`,
		manifestType, config, strings.Join(listed, ","))
	_, err = to.pushManifest(ctx, "v1", manifest)
	return layers, err
}

// unpack does what a container engine does with a layer that it fetches: keep it,
// unpack it into files, compare both digests.
func (b *bench) unpack(ctx context.Context, d *door, buffer []byte, l layer) (err error) {
	store, err := os.OpenFile(b.path("blob"), os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer store.Close()
	if err := d.blob(ctx, store, buffer, l.digest); err != nil {
		return err
	}
	if _, err := store.Seek(0, io.SeekStart); err != nil {
		return err
	}
	zipped, err := gzip.NewReader(store)
	if err != nil {
		return err
	}
	diffID := sha256.New()
	files := tar.NewReader(io.TeeReader(zipped, diffID))
	for {
		header, err := files.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		file, err := os.Create(filepath.Join(b.dir, "unpacked-"+header.Name))
		if err != nil {
			return err
		}
		_, err = io.CopyBuffer(struct{ io.Writer }{file}, files, buffer)
		file.Close()
		if err != nil {
			return err
		}
	}
	if _, err := io.Copy(diffID, zipped); err != nil { // what pads the archive
		return err
	}
	if got := digestOf(diffID); got != l.diffID {
		return fmt.Errorf("unpacked %s, got %s", l.diffID, got)
	}
	return nil
}

// measurePulls compares pulls with and without the front.
func (b *bench) measurePulls(ctx context.Context, out io.Writer) error {
	front, err := b.inFront(ctx, "pulls")
	if err != nil {
		return err
	}
	registry, err := child(b.watcher)
	if err != nil {
		return err
	}
	doors := []*door{newDoor("http://"+b.upstream, ""), newDoor(front.url, "")}
	layers, err := b.pushImage(ctx, doors[0])
	if err != nil {
		return err
	}
	now := func() (spent, error) {
		of, err := cpu(registry)
		if err != nil {
			return spent{}, err
		}
		ours, err := cpu(front.pid)
		if err != nil {
			return spent{}, err
		}
		var own syscall.Rusage
		err = syscall.Getrusage(syscall.RUSAGE_SELF, &own)
		return spent{of, ours, time.Duration(own.Utime.Nano() + own.Stime.Nano())}, err
	}
	buffer := make([]byte, 256<<10)
	fmt.Fprintf(out, "\n## A pull of %d layers, %.0f MiB: CPU of one, mean of %d\n\n| client | | registry | scittd | client | all | |\n|---|---|---|---|---|---|---|\n",
		b.layers, float64(b.packed)/(1<<20), b.rounds*b.pulls)
	for _, kind := range []struct {
		name string
		pull func(*door, layer) error
	}{
		{"compares digests", func(d *door, l layer) error { return d.blob(ctx, io.Discard, buffer, l.digest) }},
		{"keeps and unpacks, as engines do", func(d *door, l layer) error { return b.unpack(ctx, d, buffer, l) }},
	} {
		sums := make([]spent, 2)
		for round := -1; round < b.rounds; round++ { // the first is for the caches
			for turn := range doors {
				which := (turn + round + 1) % 2
				before, err := now()
				if err != nil {
					return err
				}
				for range b.pulls {
					if err := doors[which].manifest(ctx); err != nil {
						return err
					}
					for _, l := range layers {
						if err := kind.pull(doors[which], l); err != nil {
							return err
						}
					}
				}
				after, err := now()
				if err != nil {
					return err
				}
				if round >= 0 {
					sums[which].add(after, 1)
					sums[which].add(before, -1)
				}
			}
		}
		ratio := float64(sums[1].all()) / float64(sums[0].all())
		per := func(d time.Duration) string {
			return fmt.Sprintf("%.1f ms", d.Seconds()*1000/float64(b.rounds*b.pulls))
		}
		for i, way := range []string{"direct", "through the front"} {
			over := ""
			if i == 1 {
				over = fmt.Sprintf("%.2f×", ratio)
			}
			fmt.Fprintf(out, "| %s | %s | %s | %s | %s | %s | %s |\n", kind.name, way, per(sums[i].registry), per(sums[i].scittd), per(sums[i].client), per(sums[i].all()), over)
		}
		if kind.name != "compares digests" {
			b.goal(ratio <= cpuAtMost, fmt.Sprintf("CPU of a pull that is unpacked, through the front, ≤ %.2f× of direct", cpuAtMost), "%.2f×", ratio)
		}
	}
	return b.measureManifests(ctx, out, doors)
}

// measureManifests compares the latency of a manifest with and without the front.
func (b *bench) measureManifests(ctx context.Context, out io.Writer, doors []*door) error {
	took := make([][]time.Duration, 2)
	for n := range b.manifests {
		for turn := range doors {
			which := (turn + n) % 2
			begin := time.Now()
			if err := doors[which].manifest(ctx); err != nil {
				return err
			}
			took[which] = append(took[which], time.Since(begin))
		}
	}
	fmt.Fprintf(out, "\n## GET of a manifest by tag, %d of each by turns\n\n| | p50 | p99 |\n|---|---|---|\n", b.manifests)
	for i, way := range []string{"direct", "through the front"} {
		fmt.Fprintf(out, "| %s | %s | %s |\n", way, micros(quantile(took[i], 0.5)), micros(quantile(took[i], 0.99)))
	}
	added := quantile(took[1], 0.5) - quantile(took[0], 0.5)
	b.goal(added <= manifestWithin, fmt.Sprintf("the front adds ≤ %s p50 to a manifest", manifestWithin), "%s", micros(added))
	return nil
}
