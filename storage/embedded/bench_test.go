package embedded_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/scittd/scittd/storage/embedded"
)

// BenchmarkAttach is what one claim costs: two blobs and a manifest, durable.
// -cpu 1,16 shows what sharing commits brings.
func BenchmarkAttach(b *testing.B) {
	r, err := embedded.Open(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	repo, err := r.Repository("wabbit/net-monitor")
	if err != nil {
		b.Fatal(err)
	}
	ctx := context.Background()
	if err := repo.PushBlob(ctx, sha([]byte("{}")), 2, bytesOf([]byte("{}"))); err != nil {
		b.Fatal(err)
	}
	var n atomic.Int64
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			i := n.Add(1)
			var layers []any
			for _, kind := range []string{"statement", "receipt"} {
				layer := fmt.Appendf(nil, "%s %d", kind, i)
				if err := repo.PushBlob(ctx, sha(layer), int64(len(layer)), bytesOf(layer)); err != nil {
					b.Error(err)
				}
				layers = append(layers, subject(sha(layer)))
			}
			body := image(func(m map[string]any) { m["layers"], m["subject"] = layers, subject(sha([]byte("image"))) })
			if _, err := repo.PushManifest(ctx, ociManifest, body, ""); err != nil {
				b.Error(err)
			}
		}
	})
}

// BenchmarkReferrers lists 1,000 of them.
func BenchmarkReferrers(b *testing.B) {
	r, err := embedded.Open(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	repo, err := r.Repository("r")
	if err != nil {
		b.Fatal(err)
	}
	ctx := context.Background()
	if err := repo.PushBlob(ctx, sha([]byte("{}")), 2, bytesOf([]byte("{}"))); err != nil {
		b.Fatal(err)
	}
	for i := range 1000 {
		body := image(func(m map[string]any) {
			m["subject"], m["annotations"] = subject(sha([]byte("image"))), map[string]string{"io.github.scittd.entry": fmt.Sprint(i)}
		})
		if _, err := repo.PushManifest(ctx, ociManifest, body, ""); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		if list, err := repo.Referrers(ctx, sha([]byte("image")), ""); err != nil || len(list) != 1000 {
			b.Fatal(len(list), err)
		}
	}
}
