// Command registry measures the embedded registry: attaches with every byte
// synced, one subject's list as it grows, and what is made to be expensive. It
// prints Markdown and fails when a goal is missed.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/scittd/scittd/storage/embedded"
)

const (
	manifestType = "application/vnd.oci.image.manifest.v1+json"
	indexType    = "application/vnd.oci.image.index.v1+json"
	repository   = "wabbit/net-monitor"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "registry:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	flags := flag.NewFlagSet("registry", flag.ContinueOnError)
	dir := flags.String("dir", "", "`folder` on the volume to measure (default: that of temporary files)")
	window := flags.Duration("window", 5*time.Second, "how long each number of writers is measured")
	referrers := flags.Int("referrers", 10_000, "referrers of one image")
	sessions := flags.Int("sessions", 100_000, "uploads that nobody finishes")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	b := &bench{out: out, dir: *dir}
	fmt.Fprintf(out, "# Embedded registry, %d cores, %s\n\n| | figure | goal | |\n|---|---|---|---|\n", runtime.NumCPU(), runtime.Version())
	for _, writers := range []int{1, 16, 64} {
		if err := b.attaches(writers, *window); err != nil {
			return err
		}
	}
	if err := b.growth(*referrers); err != nil {
		return err
	}
	if err := b.hostile(); err != nil {
		return err
	}
	if err := b.abandoned(*sessions); err != nil {
		return err
	}
	if b.missed > 0 {
		return fmt.Errorf("%d goals were missed", b.missed)
	}
	return nil
}

type bench struct {
	out    io.Writer
	dir    string
	missed int
}

// figure prints one. goal says what is wanted, "" nothing.
func (b *bench) figure(what, figure, goal string, met bool) {
	verdict := ""
	switch {
	case goal != "" && met:
		verdict = "met"
	case goal != "":
		verdict = "MISSED"
		b.missed++
	}
	fmt.Fprintf(b.out, "| %s | %s | %s | %s |\n", what, figure, goal, verdict)
}

// server is a registry of its own behind HTTP.
type server struct {
	dir string
	*embedded.Registry
	http   *httptest.Server
	client *http.Client
}

func (b *bench) serve() (*server, error) {
	dir, err := os.MkdirTemp(b.dir, "registry-bench-")
	if err != nil {
		return nil, err
	}
	r, err := embedded.Open(dir)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return &server{dir, r, httptest.NewServer(r.Handler()), &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}}, nil
}

func (s *server) close() error {
	s.client.CloseIdleConnections()
	s.http.Close()
	return errors.Join(s.Registry.Close(), os.RemoveAll(s.dir))
}

func (s *server) send(method, path, mediaType string, body []byte, want int) ([]byte, http.Header, error) {
	req, err := http.NewRequest(method, s.http.URL+path, bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set("Content-Type", mediaType)
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != want {
		err = fmt.Errorf("%s %s: %d %.200s", method, path, resp.StatusCode, text)
	}
	return text, resp.Header, err
}

func digest(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }

func (s *server) blob(body []byte) error {
	_, _, err := s.send("POST", "/v2/"+repository+"/blobs/uploads/?digest="+digest(body), "application/octet-stream", body, 201)
	return err
}

type descriptor struct {
	MediaType string `json:"mediaType"`
	Digest    string `json:"digest"`
	Size      int    `json:"size"`
}

func describe(mediaType string, body []byte) descriptor {
	return descriptor{mediaType, digest(body), len(body)}
}

var (
	empty = []byte("{}")
	image = []byte("the image")
	young = []byte("another one")
)

// attach pushes what one claim is: statement, receipt, and the manifest that
// hangs them on an image.
func (s *server) attach(n int, image []byte) error {
	statement, receipt := bytes.Repeat(fmt.Appendf(nil, "statement %016d", n), 80), bytes.Repeat(fmt.Appendf(nil, "receipt %016d", n), 20)
	for _, layer := range [][]byte{statement, receipt} {
		if err := s.blob(layer); err != nil {
			return err
		}
	}
	body, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": manifestType, "artifactType": "application/scitt-receipt+cose",
		"config":  describe("application/vnd.oci.empty.v1+json", empty),
		"layers":  []descriptor{describe("application/scitt-statement+cose", statement), describe("application/scitt-receipt+cose", receipt)},
		"subject": describe(manifestType, image),
		"annotations": map[string]string{
			"io.github.scittd.entry": digest(statement)[7:], "io.github.scittd.issuer": "https://publisher.example",
			"org.opencontainers.image.created": "2026-01-01T00:00:00Z",
		},
	})
	if err != nil {
		return err
	}
	_, _, err = s.send("PUT", "/v2/"+repository+"/manifests/"+digest(body), manifestType, body, 201)
	return err
}

// attaches counts them with so many writers.
func (b *bench) attaches(writers int, window time.Duration) (err error) {
	s, err := b.serve()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if err := s.blob(empty); err != nil {
		return err
	}
	var next, done atomic.Int64
	errs := make([]error, writers)
	start := time.Now()
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for time.Since(start) < window && errs[w] == nil {
				if errs[w] = s.attach(int(next.Add(1)), image); errs[w] == nil {
					done.Add(1)
				}
			}
		})
	}
	all.Wait()
	rate := float64(done.Load()) / time.Since(start).Seconds()
	goal := ""
	if writers == 16 {
		goal = "at least 150"
	}
	b.figure(fmt.Sprintf("attaches/s over HTTP, synced, %d writers", writers), fmt.Sprintf("%.0f", rate), goal, rate >= 150)
	return errors.Join(errs...)
}

// growth hangs ever more on one image and lists it.
func (b *bench) growth(count int) (err error) {
	s, err := b.serve()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if err := s.blob(empty); err != nil {
		return err
	}
	grown := 0
	for ; grown < 990; grown++ {
		if err := s.attach(grown, image); err != nil {
			return err
		}
	}
	// In turns, so that a disk that is slow for a while is so for both.
	took := map[string][]time.Duration{}
	for range 20 {
		for i, to := range [][]byte{image, young} {
			start := time.Now()
			if err := s.attach(grown+i*1_000_000, to); err != nil { // other blobs, too
				return err
			}
			took[string(to)] = append(took[string(to)], time.Since(start))
		}
		grown++
	}
	late, early := median(took[string(image)]), median(took[string(young)])
	b.figure("the 1,000th attach over the 10th", fmt.Sprintf("%.2f (%s, %s)", float64(late)/float64(early), late, early), "at most 1.5",
		float64(late) <= 1.5*float64(early))
	if err := b.list(s, grown, 20*time.Millisecond); err != nil {
		return err
	}
	errs := make([]error, 16)
	var all sync.WaitGroup
	for w := range errs {
		all.Go(func() {
			for n := grown + w; n < count && errs[w] == nil; n += len(errs) {
				errs[w] = s.attach(n, image)
			}
		})
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return b.list(s, count, 50*time.Millisecond)
}

// list follows the pages of all referrers, ten times.
func (b *bench) list(s *server, count int, goal time.Duration) error {
	var pages []time.Duration
	var allocated uint64
	size := 0
	for range 10 {
		found := 0
		for next := "/v2/" + repository + "/referrers/" + digest(image); next != ""; {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			start := time.Now()
			w := httptest.NewRecorder() // the registry's own work, without the client's
			s.Handler().ServeHTTP(w, httptest.NewRequest("GET", next, nil))
			pages = append(pages, time.Since(start))
			runtime.ReadMemStats(&after)
			allocated = max(allocated, after.TotalAlloc-before.TotalAlloc)
			size = max(size, w.Body.Len())
			found += bytes.Count(w.Body.Bytes(), []byte(`"digest":`))
			next, _, _ = strings.Cut(strings.TrimPrefix(w.Header().Get("Link"), "<"), ">")
		}
		if found != count {
			return fmt.Errorf("%d of %d referrers are listed", found, count)
		}
	}
	middle := median(pages)
	b.figure(fmt.Sprintf("%d referrers: a page (of %d, up to %.1f MiB)", count, len(pages)/10, float64(size)/(1<<20)),
		fmt.Sprintf("p50 %s, worst %s", middle.Round(10*time.Microsecond), slices.Max(pages).Round(10*time.Microsecond)), fmt.Sprintf("p50 at most %s", goal), middle <= goal)
	b.figure(fmt.Sprintf("%d referrers: allocated for a page, answer included", count), fmt.Sprintf("%.1f MiB", float64(allocated)/(1<<20)),
		"at most 32 MiB", allocated <= 32<<20)
	return nil
}

// hostile pushes manifests of 4 MiB that are nothing but members.
func (b *bench) hostile() (err error) {
	s, err := b.serve()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if err := s.blob(empty); err != nil {
		return err
	}
	fill := func(head, unit, tail string) []byte {
		n := (4<<20 - len(head) - len(tail)) / len(unit)
		return []byte(head + strings.Repeat(unit, n-1) + strings.TrimSuffix(unit, ",") + tail)
	}
	one := `{"digest":"` + digest(empty) + `"}`
	worst, worstOf := time.Duration(0), ""
	for name, body := range map[string][]byte{
		"descriptors": fill(`{"schemaVersion":2,"manifests":[`, one+",", `]}`),
		"objects":     fill(`{"schemaVersion":2,"manifests":[],"x":[`, `{},`, `]}`),
		"members":     fill(`{"schemaVersion":2,"manifests":[],`, `"":0,`, `}`),
		"annotations": fill(`{"schemaVersion":2,"manifests":[],"annotations":{`, `"":"",`, `}}`),
	} {
		before := cpu()
		if _, _, err := s.send("PUT", "/v2/"+repository+"/manifests/"+name, indexType, body, 201); err != nil {
			return err
		}
		if took := cpu() - before; took > worst {
			worst, worstOf = took, name
		}
	}
	b.figure("a hostile manifest of 4 MiB, CPU", fmt.Sprintf("%s (%s)", worst.Round(time.Millisecond), worstOf), "at most 500ms", worst <= 500*time.Millisecond)
	return nil
}

// cpu is what this process has used.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// abandoned opens uploads that nobody finishes, in many repositories.
func (b *bench) abandoned(count int) (err error) {
	s, err := b.serve()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	statuses := map[int]int{}
	h := s.Handler()
	start := time.Now()
	for n := range count {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(context.Background(), "POST", fmt.Sprintf("/v2/r%d/blobs/uploads/", n%500), nil))
		statuses[w.Code]++
	}
	took := time.Since(start)
	runtime.GC()
	runtime.ReadMemStats(&after)
	var disk int64
	err = filepath.WalkDir(s.dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if err == nil {
			disk += info.Size()
		}
		return err
	})
	grown := int64(after.HeapInuse) - int64(before.HeapInuse)
	b.figure(fmt.Sprintf("%d uploads opened: taken, refused with 429", count), fmt.Sprintf("%d, %d", statuses[202], statuses[429]), "at most 10000 taken",
		statuses[202] <= 10_000 && statuses[202]+statuses[429] == count)
	b.figure(fmt.Sprintf("%d uploads opened: disk, heap, each", count),
		fmt.Sprintf("%.1f MiB, %.1f MiB, %s", float64(disk)/(1<<20), float64(grown)/(1<<20), (took/time.Duration(count)).Round(time.Microsecond)),
		"at most 32 MiB each", disk <= 32<<20 && grown <= 32<<20)
	return err
}

func median(all []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}
