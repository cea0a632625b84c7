package ledgertest

import (
	"bytes"
	"context"
	"crypto/sha512"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing/iotest"
	"time"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/statement"
)

var stagingTests = []test{
	{"what is staged comes back, also after reopening", stagedComesBack},
	{"content that is not its digest is refused", wrongDigest},
	{"size and quota are held", limitsHold},
	{"a failed upload leaves nothing and frees its quota", failedUpload},
	{"staging the same content again extends its time", stageAgain},
	{"bytes that do not match renew nothing", mismatchRenewsNothing},
	{"unclaimed content goes when its time is over", unclaimedExpires},
	{"claimed content stays until its deliveries are settled", claimedStays},
	{"a new stay outlives the deliveries of an older claim", newStay},
	{"a slow upload does not hold up a commit", slowUpload},
	{"concurrent uploads of one content end as one", concurrentUploads},
}

var limits = ledger.StagingLimits{MaxSize: 4 << 20, Quota: 8 << 20, Keep: time.Hour}

// content is n bytes that differ in every chunk.
func content(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i ^ i>>8 ^ i>>16)
	}
	return b
}

func (w *world) stage(b []byte) statement.Digest {
	w.Helper()
	digest := statement.SHA256(b)
	n, err := w.store.Stage(w.ctx, digest, bytes.NewReader(b), limits)
	if err != nil || n != int64(len(b)) {
		w.Fatalf("stage %d bytes: %d, %v", len(b), n, err)
	}
	return digest
}

// staged reads staged content; nil when there is none.
func (w *world) staged(digest statement.Digest) []byte {
	w.Helper()
	r, size, err := w.store.Staged(w.ctx, digest)
	if errors.Is(err, ledger.ErrNotFound) {
		return nil
	}
	if err != nil {
		w.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil {
		w.Fatal(err)
	}
	if int64(len(b)) != size || statement.SHA256(b) != digest {
		w.Fatalf("%d bytes, announced %d, of digest %s, want %s", len(b), size, statement.SHA256(b), digest)
	}
	return append([]byte{}, b...)
}

func (w *world) sweep(now time.Time) {
	w.Helper()
	if err := w.store.Sweep(w.ctx, now); err != nil {
		w.Fatal(err)
	}
}

func stagedComesBack(w *world) {
	var digests []statement.Digest
	sizes := []int{0, 1, 256<<10 - 1, 256 << 10, 1<<20 + 1, 3 << 20}
	for _, n := range sizes {
		digests = append(digests, w.stage(content(n)))
	}
	w.reopen()
	for i, d := range digests {
		if b := w.staged(d); !bytes.Equal(b, content(sizes[i])) || b == nil {
			w.Errorf("content of %d bytes did not come back", sizes[i])
		}
	}
	if w.staged(Image(1)) != nil {
		w.Error("what was never staged is there")
	}
	long, err := statement.DigestFromBytes(sum512(content(10)))
	if err != nil {
		w.Fatal(err)
	}
	if _, err := w.store.Stage(w.ctx, long, bytes.NewReader(content(10)), limits); err != nil {
		w.Errorf("sha512: %v", err)
	}
}

func sum512(b []byte) []byte {
	sum := sha512.Sum512(b)
	return sum[:]
}

func wrongDigest(w *world) {
	for name, digest := range map[string]statement.Digest{
		"other content": statement.SHA256([]byte("other")), "unknown algorithm": "md5:00112233445566778899aabbccddeeff",
	} {
		_, err := w.store.Stage(w.ctx, digest, bytes.NewReader(content(1<<20)), limits)
		if !errors.Is(err, ledger.ErrDigest) {
			w.Errorf("%s: %v, want ErrDigest", name, err)
		}
		if w.staged(digest) != nil {
			w.Errorf("%s: there all the same", name)
		}
	}
}

func limitsHold(w *world) {
	small := ledger.StagingLimits{MaxSize: 1000, Quota: 2500, Keep: time.Hour}
	stage := func(b []byte) error {
		_, err := w.store.Stage(w.ctx, statement.SHA256(b), bytes.NewReader(b), small)
		return err
	}
	if err := stage(content(1001)); !errors.Is(err, ledger.ErrTooLarge) {
		w.Errorf("1001 bytes of 1000: %v, want ErrTooLarge", err)
	}
	for _, n := range []int{1000, 999, 500} { // 2499 in all
		if err := stage(content(n)); err != nil {
			w.Errorf("%d bytes: %v", n, err)
		}
	}
	if err := stage([]byte("xx")); !errors.Is(err, ledger.ErrQuota) {
		w.Errorf("2 bytes beyond the quota: %v, want ErrQuota", err)
	}
	if err := stage(content(1000)); err != nil {
		w.Errorf("what is there already, under a full quota: %v", err)
	}
	if err := stage([]byte("x")); err != nil {
		w.Errorf("the last byte of the quota: %v", err)
	}
}

func failedUpload(w *world) {
	for range 5 { // 15 MiB in all, twice the quota
		broken := io.MultiReader(bytes.NewReader(content(3<<20)), iotest.ErrReader(io.ErrUnexpectedEOF))
		if _, err := w.store.Stage(w.ctx, statement.SHA256(content(3<<20)), broken, limits); !errors.Is(err, io.ErrUnexpectedEOF) {
			w.Fatalf("broken reader: %v, want its error", err)
		}
	}
	ctx, cancel := context.WithCancel(w.ctx)
	gone := io.MultiReader(bytes.NewReader(content(1<<20)), readerFunc(func([]byte) (int, error) {
		cancel()
		return 0, ctx.Err()
	}))
	if _, err := w.store.Stage(ctx, statement.SHA256(content(1<<20)), gone, limits); !errors.Is(err, context.Canceled) {
		w.Errorf("cancelled: %v", err)
	}
	if w.staged(statement.SHA256(content(3<<20))) != nil {
		w.Error("a failed upload is there")
	}
	w.stage(content(4 << 20))
	w.stage(content(3<<20 + 1))
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func stageAgain(w *world) {
	b := content(1000)
	short := limits
	short.Keep = time.Minute
	if _, err := w.store.Stage(w.ctx, statement.SHA256(b), bytes.NewReader(b), short); err != nil {
		w.Fatal(err)
	}
	digest := w.stage(b)
	if n, err := w.store.Stage(w.ctx, digest, strings.NewReader("other"), limits); !errors.Is(err, ledger.ErrDigest) {
		w.Errorf("other content under a digest that is there: %d, %v; want ErrDigest", n, err)
	}
	w.sweep(time.Now().Add(30 * time.Minute))
	if w.staged(digest) == nil {
		w.Error("gone before its new time")
	}
}

func mismatchRenewsNothing(w *world) {
	w.init()
	b := content(1 << 20)
	digest := statement.SHA256(b)
	other := bytes.Clone(b)
	other[len(other)-1]++
	// who has not got the content tries to keep it
	renew := func() {
		w.Helper()
		for _, try := range []struct {
			name string
			r    io.Reader
			want error
		}{
			{"nothing", strings.NewReader(""), ledger.ErrDigest},
			{"one byte", strings.NewReader("x"), ledger.ErrDigest},
			{"the last byte another", bytes.NewReader(other), ledger.ErrDigest},
			{"one byte too few", bytes.NewReader(b[1:]), ledger.ErrDigest},
			{"one byte too many", io.MultiReader(bytes.NewReader(b), strings.NewReader("x")), ledger.ErrDigest},
			{"broken off before its end", io.MultiReader(bytes.NewReader(b), iotest.ErrReader(io.ErrUnexpectedEOF)), io.ErrUnexpectedEOF},
			{"more than is allowed", bytes.NewReader(content(int(limits.MaxSize) + 1)), ledger.ErrTooLarge},
		} {
			if _, err := w.store.Stage(w.ctx, digest, try.r, limits); !errors.Is(err, try.want) {
				w.Errorf("%s: %v, want %v", try.name, err, try.want)
			}
		}
	}

	short := limits
	short.Keep = time.Minute
	if _, err := w.store.Stage(w.ctx, digest, bytes.NewReader(b), short); err != nil {
		w.Fatal(err)
	}
	renew()
	if w.staged(digest) == nil {
		w.Fatal("gone within its time")
	}
	w.sweep(time.Now().Add(2 * time.Minute))
	if w.staged(digest) != nil {
		w.Error("there after its time")
	}

	w.stage(b)
	w.commit(w.wabbit.Claim(w, Image(1), SBOM, b))
	renew()
	for _, d := range w.due("a", time.Now().Add(time.Second), 10, 10) {
		d.State, d.Manifest = ledger.Done, Image(8)
		w.settle(d, "a")
	}
	w.sweep(time.Now())
	if w.staged(digest) != nil {
		w.Error("there although its claim is fulfilled")
	}
}

func unclaimedExpires(w *world) {
	digest := w.stage(content(1 << 20))
	w.sweep(time.Now().Add(59 * time.Minute))
	r, _, err := w.store.Staged(w.ctx, digest)
	if err != nil {
		w.Fatal(err)
	}
	defer r.Close()
	w.sweep(time.Now().Add(61 * time.Minute))
	if w.staged(digest) != nil {
		w.Error("there after its time")
	}
	if b, err := io.ReadAll(r); err == nil && len(b) != 1<<20 {
		w.Errorf("a reader of swept content ends after %d bytes without an error", len(b))
	}
}

func claimedStays(w *world) {
	w.init()
	b := content(1000)
	digest := w.stage(b)
	unplaced := []byte("evidence of a claim that is not placed")
	w.stage(unplaced)
	w.commit(
		w.wabbit.Claim(w, Image(1), SBOM, b),
		w.wabbit.Sign(w, statement.Template{Subject: "no image", ContentType: Report, Payload: unplaced}),
	)
	late := time.Now().Add(48 * time.Hour)
	w.sweep(late)
	if w.staged(digest) == nil {
		w.Fatal("claimed content went before it was delivered")
	}
	if w.staged(statement.SHA256(unplaced)) != nil {
		w.Error("content that no delivery needs was claimed")
	}
	for _, d := range w.due("a", time.Now().Add(time.Second), 10, 10) {
		if w.staged(digest) == nil {
			w.Fatalf("gone before %s", label(d))
		}
		d.State, d.Manifest = ledger.Done, Image(8)
		w.settle(d, "a")
	}
	w.sweep(time.Now())
	if w.staged(digest) != nil {
		w.Error("there although its delivery is settled")
	}
	w.check()
}

func newStay(w *world) {
	w.init()
	b := content(1000)
	digest := w.stage(b)
	w.commit(w.wabbit.Claim(w, Image(1), SBOM, b))
	w.stage(b) // for a claim to come
	for _, d := range w.due("a", time.Now().Add(time.Second), 10, 10) {
		d.State, d.LastError = ledger.Refused, "413"
		w.settle(d, "a")
	}
	w.sweep(time.Now())
	if w.staged(digest) == nil {
		w.Fatal("the new stay ended with the old claim")
	}
	w.commit(w.wabbit.Claim(w, Image(2), SBOM, b))
	w.sweep(time.Now().Add(48 * time.Hour))
	if w.staged(digest) == nil {
		w.Error("gone before its second delivery")
	}
}

func slowUpload(w *world) {
	w.init()
	claims := w.wabbit.Claims(w, 0, 1)
	committed := false
	slow := io.MultiReader(bytes.NewReader(content(1<<20)), readerFunc(func([]byte) (int, error) {
		w.commit(claims...) // while the upload waits for its next byte
		committed = true
		return 0, io.EOF
	}))
	if _, err := w.store.Stage(w.ctx, statement.SHA256(content(1<<20)), slow, limits); err != nil {
		w.Error(err)
	}
	if !committed {
		w.Error("the upload ended early")
	}
	w.check()
}

func concurrentUploads(w *world) {
	b := content(1 << 20)
	digest := statement.SHA256(b)
	roomy := limits
	roomy.Quota = 64 << 20
	var done sync.WaitGroup
	for i := range 8 {
		done.Go(func() {
			if n, err := w.store.Stage(w.ctx, digest, bytes.NewReader(b), roomy); err != nil || n != int64(len(b)) {
				w.Errorf("upload %d: %d, %v", i, n, err)
			}
		})
	}
	done.Wait()
	if !bytes.Equal(w.staged(digest), b) {
		w.Error("content did not come back")
	}
	tight := limits
	tight.Quota = int64(len(b)) + 10
	extra := fmt.Append(nil, "0123456789")
	if _, err := w.store.Stage(w.ctx, statement.SHA256(extra), bytes.NewReader(extra), tight); err != nil {
		w.Errorf("the losers' bytes still count: %v", err)
	}
}
