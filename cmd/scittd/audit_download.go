package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/term"

	"github.com/scittd/scittd/client"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/replay"
	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/statement"
)

// spotReceipts is how many receipts are asked for, spread over the log.
const spotReceipts = 64

// answerTime is how long one answer may take, to its last byte: who sends a byte
// now and then would hold an audit for ever.
const answerTime = 5 * time.Minute

// download brings a folder up to the newest head of the service, and opens it.
func (r *auditRun) download(ctx context.Context) (*replay.Folder, func(), error) {
	remove := func() {}
	dir := r.dir
	if dir == "" {
		var err error
		if dir, err = os.MkdirTemp("", "scittd-audit-"); err != nil {
			return nil, nil, err
		}
		remove = func() { os.RemoveAll(dir) }
	}
	if err := r.fill(ctx, dir); err != nil {
		remove()
		return nil, nil, err
	}
	f, err := openFolder(dir)
	if err != nil {
		remove()
		return nil, nil, err
	}
	return f, func() { f.Close(); remove() }, nil
}

func (r *auditRun) fill(ctx context.Context, dir string) (err error) {
	o := client.Options{UserAgent: "scittd/" + version()}
	if r.tokenFile != "" {
		token, err := readSecret(r.tokenFile)
		if err != nil {
			return fmt.Errorf("%w: --token-file: %w", errUsage, err)
		}
		o.Token = strings.TrimSpace(string(token))
	}
	c, err := client.New(r.replay, o)
	if err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	d, err := replay.NewDownload(dir, c.URL())
	if errors.Is(err, replay.ErrFolder) {
		return fmt.Errorf("%w: --dir: %w", errUsage, err)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	r.before = d.Decided()
	if err := downloadHeads(ctx, c, d); err != nil {
		return err
	}
	size := d.Head().Size
	line := r.progress("download")
	defer line.clear()
	// Each fills a file of its own.
	both, ctx2 := errgroup.WithContext(ctx)
	both.Go(func() error { return pages(ctx2, d.Decided(), size, c.Decisions, d.AddDecisions, func(uint64) {}) })
	both.Go(func() error {
		return pages(ctx2, d.Statements(), size, c.Statements, d.AddStatements, func(at uint64) { line.show(at, size) })
	})
	if err := both.Wait(); err != nil {
		return err
	}
	if err := r.evidence(ctx, c, d); err != nil {
		return err
	}
	return downloadReceipts(ctx, c, d)
}

// downloadHeads adds what the service has signed since.
func downloadHeads(ctx context.Context, c *client.Client, d *replay.Download) error {
	known := d.Head()
	after, first := known.PrevSize, known.Size > 0
	for {
		page, err := c.Heads(ctx, after)
		if err != nil {
			return err
		}
		heads := make([]ledger.Head, 0, len(page))
		for _, h := range page {
			if len(h.Root) != 32 {
				return fmt.Errorf("%s sent a head of size %d with a root of %d bytes", c.URL(), h.Size, len(h.Root))
			}
			heads = append(heads, ledger.Head{
				SignedHead: receipts.SignedHead{
					Head:      receipts.Head{Size: h.Size, Root: [32]byte(h.Root), Time: time.Unix(h.IssuedAt, 0).UTC()},
					Protected: h.Protected, Signature: h.Signature,
				},
				PrevSize: h.PrevSize, Policy: h.Policy,
			})
		}
		if first {
			if err := sameLog(known, heads); err != nil {
				return err
			}
			heads, first = heads[1:], false
		}
		if err := d.AddHeads(heads); err != nil {
			return fmt.Errorf("%w: %s: %w", errMisbehaved, c.URL(), err)
		}
		if len(page) == 0 {
			return nil
		}
		after = page[len(page)-1].Size
	}
}

// pages adds one page after the other until size is reached.
func pages(ctx context.Context, at, size uint64, get func(context.Context, uint64, int) ([]byte, error), add func([]byte) (int, error), show func(at uint64)) error {
	for at < size {
		one, cancel := context.WithTimeout(ctx, answerTime)
		page, err := get(one, at, int(min(500, size-at)))
		cancel()
		if err != nil {
			return err
		}
		n, err := add(page)
		if err != nil {
			return fmt.Errorf("entries from %d on: %w", at, err)
		}
		if n == 0 {
			return fmt.Errorf("%w: the service sends nothing of entry %d, below a head of size %d", errMisbehaved, at, size)
		}
		if at += uint64(n); at > size {
			return fmt.Errorf("%w: the service sends more than it was asked for, up to entry %d of a log of size %d", errMisbehaved, at-1, size)
		}
		show(at)
	}
	return nil
}

// evidence asks for the bytes that decisions were made over. What is gone, too
// large or something else is left out: replay will name the entry.
func (r *auditRun) evidence(ctx context.Context, c *client.Client, d *replay.Download) error {
	for _, w := range d.Wanted() {
		one, cancel := context.WithTimeout(ctx, answerTime)
		content, err := c.Evidence(one, w.ID)
		cancel()
		var p *client.Problem
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, &p) && p.Status < http.StatusInternalServerError, errors.Is(err, client.ErrTooLarge):
			continue
		case err != nil: // where it was placed does not answer: that is no reason to know nothing at all
			fmt.Fprintf(r.stderr, "warning: the evidence of entry %d cannot be had: %s\n", w.Index, plain(err.Error()))
			continue
		case !w.Digest.Matches(content):
			fmt.Fprintf(r.stderr, "warning: what is sent as the evidence of entry %d has another digest\n", w.Index)
			continue
		}
		if err := d.AddEvidence(w.Digest, content); err != nil {
			return err
		}
	}
	return nil
}

// downloadReceipts asks for some receipts as everybody gets them.
func downloadReceipts(ctx context.Context, c *client.Client, d *replay.Download) error {
	have, err := d.Receipts()
	if err != nil {
		return err
	}
	size := d.Head().Size
	for n := range uint64(spotReceipts) {
		index := n * size / spotReceipts
		if _, there := have[index]; there {
			continue
		}
		canonical, err := d.Statement(index)
		if err != nil {
			return err
		}
		if canonical == nil {
			continue // it is not shown
		}
		s, err := statement.Parse(canonical)
		if err != nil {
			continue // replay will say so
		}
		receipt, err := c.Receipt(ctx, s.ID())
		if err != nil {
			return err
		}
		have[index] = receipt
		if err := d.AddReceipt(index, receipt); err != nil {
			return err
		}
	}
	return nil
}

// progress shows how far something is: one line that renews itself on a
// terminal, else with -v a plain line every 10 s.
type progress struct {
	auditRun *auditRun
	what     string
	terminal bool
	since    time.Time
	last     time.Time
}

func (r *auditRun) progress(what string) *progress {
	f, ok := r.stderr.(*os.File)
	now := time.Now()
	return &progress{auditRun: r, what: what, terminal: ok && term.IsTerminal(int(f.Fd())) && r.env("CI") == "", since: now, last: now}
}

func (p *progress) show(at, size uint64) {
	every := 10 * time.Second
	if p.terminal {
		every = 200 * time.Millisecond
	}
	now := time.Now()
	if !p.terminal && !p.auditRun.verbose || now.Sub(p.last) < every {
		return
	}
	p.last = now
	rate := float64(at) / now.Sub(p.since).Seconds()
	left := time.Duration(float64(size-min(at, size))/rate) * time.Second
	text := fmt.Sprintf("%s: entry %d of %d, %.0f/s, %s left", p.what, at, size, rate, left.Round(time.Second))
	if p.terminal {
		fmt.Fprintf(p.auditRun.stderr, "\r\x1b[K%s", text)
		return
	}
	fmt.Fprintln(p.auditRun.stderr, text)
}

func (p *progress) clear() {
	if p.terminal {
		fmt.Fprint(p.auditRun.stderr, "\r\x1b[K")
	}
}
