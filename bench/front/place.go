package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/scittd/scittd/statement"
)

// measureBlobs pushes and pulls one big blob.
func (b *bench) measureBlobs(ctx context.Context, out io.Writer) error {
	front, err := b.inFront(ctx, "blobs")
	if err != nil {
		return err
	}
	embedded, err := b.serve(ctx, "embedded")
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "\n## A blob of %d MiB\n\n| | push | pull | memory before | most |\n|---|---|---|---|---|\n", b.blob)
	for _, s := range []struct {
		name  string
		at    *service
		token string
	}{{"through the front", front, ""}, {"embedded registry", embedded, embedded.token}} {
		d := newDoor(s.at.url, s.token)
		if _, err := d.pushNoise(ctx, 1, 1<<20); err != nil { // so that what is needed once is there
			return err
		}
		begin, err := resident(s.at.pid)
		if err != nil {
			return err
		}
		watching, stop := context.WithCancel(ctx)
		var most int64
		var watchErr error
		var watcher sync.WaitGroup
		watcher.Go(func() { most, watchErr = watch(watching, s.at.pid) })
		start := time.Now()
		digest, err := d.pushNoise(ctx, 2, b.blob<<20)
		pushed := time.Since(start)
		if err == nil {
			start = time.Now()
			err = d.blob(ctx, io.Discard, make([]byte, 256<<10), digest)
		}
		pulled := time.Since(start)
		stop()
		watcher.Wait()
		if err := errors.Join(err, watchErr); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		fmt.Fprintf(out, "| %s | %.1f s | %.1f s | %d MiB | %d MiB |\n", s.name, pushed.Seconds(), pulled.Seconds(), begin>>20, most>>20)
		b.goal(most-begin < memoryAtMost, fmt.Sprintf("%d MiB, %s: identical, memory grows < %d MiB", b.blob, s.name, memoryAtMost>>20), "%d MiB", (most-begin)>>20)
	}
	return nil
}

// watch is the most memory that pid has until ctx ends.
func watch(ctx context.Context, pid int) (most int64, err error) {
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for {
		now, err := resident(pid)
		if err != nil {
			return most, err
		}
		most = max(most, now)
		select {
		case <-ctx.Done():
			return most, nil
		case <-look.C:
		}
	}
}

// measureLag registers claims about an image each and waits until the registry,
// asked directly, lists the receipt.
func (b *bench) measureLag(ctx context.Context, out io.Writer) error {
	s, err := b.serve(ctx, "beside", "--registry-host", b.upstream, "--registry-plain-http")
	if err != nil {
		return err
	}
	registry, service := newDoor("http://"+b.upstream, ""), newDoor(s.url, s.token)
	config, err := registry.pushNoise(ctx, 3, 100)
	if err != nil {
		return err
	}
	images := make([]string, b.register)
	for n := range images {
		manifest := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":100},"layers":[],"annotations":{"n":"%d"}}`,
			manifestType, config, n)
		if images[n], err = registry.pushManifest(ctx, "", manifest); err != nil {
			return err
		}
	}
	took, errs := make([]time.Duration, b.register), make([]error, b.register)
	var waiting sync.WaitGroup
	due := time.NewTicker(time.Second / time.Duration(b.rate))
	defer due.Stop()
	for n, image := range images {
		waiting.Go(func() { took[n], errs[n] = b.place(ctx, registry, service, n, image) })
		<-due.C
	}
	waiting.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	p99 := quantile(took, 0.99)
	fmt.Fprintf(out, "\n## %d registrations a second, %d in all, from 201 until the registry lists the receipt\n\np50 %s, p99 %s, at most %s.\n",
		b.rate, b.register, micros(quantile(took, 0.5)), micros(p99), micros(slices.Max(took)))
	b.goal(p99 <= listedWithin, fmt.Sprintf("%d registrations/s: listed within %s, p99", b.rate, listedWithin), "%s", micros(p99))
	return nil
}

// place registers claim n, about image, and returns how long after the answer its
// receipt was listed.
func (b *bench) place(ctx context.Context, registry, service *door, n int, image string) (time.Duration, error) {
	signed, err := statement.Sign(statement.Template{
		Issuer: issuer, Subject: "pkg:oci/app@" + image, ContentType: "application/json", Payload: fmt.Appendf(nil, `{"n":%d}`, n),
	}, b.key)
	if err != nil {
		return 0, err
	}
	_, err = service.send(ctx, http.MethodPost, "/v2/"+repository+"/_scitt/entries/register", bytes.NewReader(signed), int64(len(signed)), http.StatusCreated, "Content-Type: application/cose")
	if err != nil {
		return 0, err
	}
	for begin := time.Now(); time.Since(begin) < time.Minute; time.Sleep(lookEvery) {
		listed, err := registry.lists(ctx, image)
		if err != nil {
			return 0, err
		}
		if listed {
			return time.Since(begin), nil
		}
	}
	return 0, fmt.Errorf("the receipt about %s is not listed after a minute", image)
}

// lists says whether the tag schema has a receipt for image.
func (d *door) lists(ctx context.Context, image string) (bool, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.url+"/v2/"+repository+"/manifests/"+strings.Replace(image, ":", "-", 1), nil)
	if err != nil {
		return false, err
	}
	req.Header.Set("Accept", "application/vnd.oci.image.index.v1+json")
	resp, err := d.client.Do(req)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode == http.StatusNotFound {
		return false, err
	}
	var index struct {
		Manifests []struct{ ArtifactType string }
	}
	if err := json.Unmarshal(text, &index); err != nil {
		return false, fmt.Errorf("referrers of %s: %s: %w", image, resp.Status, err)
	}
	for _, d := range index.Manifests {
		if d.ArtifactType == "application/scitt-receipt+cose" {
			return true, nil
		}
	}
	return false, nil
}

// quantile sorts v, which is not empty.
func quantile(v []time.Duration, q float64) time.Duration {
	slices.Sort(v)
	return v[min(int(q*float64(len(v))), len(v)-1)]
}

func micros(d time.Duration) string { return d.Round(10 * time.Microsecond).String() }
