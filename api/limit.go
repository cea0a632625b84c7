package api

import (
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/scittd/scittd/statement"
)

// Limits bounds what callers may use. The zero Limits means DefaultLimits; else
// a size of 0 takes its default, and a rate or InFlight of 0 is off.
type Limits struct {
	Statement    int64 // bytes of one Signed Statement
	Evidence     int64 // bytes of one staged piece of evidence
	StagingQuota int64 // bytes of all staged evidence

	CallerRate   float64 // requests a second of one token; each statement of a batch counts as one
	CallerBurst  int
	AddressRate  float64 // requests a second of one address, for callers without a valid token
	AddressBurst int
	PushRate     float64 // requests a second of one token that write to the registry: an image has dozens
	PushBurst    int
	PullRate     float64 // requests a second of one address that read from it
	PullBurst    int
	InFlight     int // requests served at once, batches at most half of them; more are answered 503
}

// DefaultLimits are meant for a service in the open.
func DefaultLimits() Limits {
	return Limits{
		Statement: statement.MaxSize, Evidence: 64 << 20, StagingQuota: 4 << 30,
		CallerRate: 50, CallerBurst: 200, AddressRate: 20, AddressBurst: 100, InFlight: 512,
		PushRate: 500, PushBurst: 2_000, // pulls are not limited: a cluster behind one address is many
	}
}

func (l Limits) completed() Limits {
	d := DefaultLimits()
	if l == (Limits{}) {
		return d
	}
	for _, size := range []struct {
		value *int64
		def   int64
	}{{&l.Statement, d.Statement}, {&l.Evidence, d.Evidence}, {&l.StagingQuota, d.StagingQuota}} {
		if *size.value <= 0 {
			*size.value = size.def
		}
	}
	return l
}

// maxBuckets is how many callers and how many addresses are remembered. One
// that is forgotten starts with a full bucket again.
const maxBuckets = 10_000

// buckets is one token bucket per key. Safe for concurrent use.
type buckets[K comparable] struct {
	rate  rate.Limit
	burst int

	mu   sync.Mutex // guards keys
	keys *lru[K, *rate.Limiter]
}

func newBuckets[K comparable](perSecond float64, burst int) *buckets[K] {
	return &buckets[K]{rate: rate.Limit(perSecond), burst: max(burst, 1), keys: newLRU[K, *rate.Limiter](maxBuckets)}
}

// take uses one request of key's, or says when there will be one.
func (b *buckets[K]) take(key K, now time.Time) error {
	if b.rate <= 0 {
		return nil
	}
	reservation := b.of(key).ReserveN(now, 1)
	wait := reservation.DelayFrom(now)
	if wait <= 0 {
		return nil
	}
	reservation.CancelAt(now) // who is refused has used nothing
	return &RateLimited{After: wait}
}

// owe uses one request of key's on credit. It is never refused; key's next take
// is, until the debt is paid off.
func (b *buckets[K]) owe(key K, now time.Time) {
	if b.rate > 0 {
		b.of(key).ReserveN(now, 1)
	}
}

// knows: key has used a request lately, or any number is free.
func (b *buckets[K]) knows(key K) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, ok := b.keys.get(key)
	return ok || b.rate <= 0
}

// of is the bucket of key, a full one when it is not remembered.
func (b *buckets[K]) of(key K) *rate.Limiter {
	b.mu.Lock()
	defer b.mu.Unlock()
	bucket, ok := b.keys.get(key)
	if !ok {
		bucket = rate.NewLimiter(b.rate, b.burst)
		b.keys.put(key, bucket)
	}
	return bucket
}

// addresses finds out where a request comes from.
type addresses struct {
	proxies []netip.Prefix
}

// client is the address that r is counted under: that of the connection, or
// the one that a configured proxy vouches for. X-Forwarded-For is read from
// the right, each entry being believed only when the hop after it is a proxy of
// ours; what stands further left anyone may have written. An IPv6 client counts
// by its /64, since it can change the rest at will.
func (a addresses) client(r *http.Request) netip.Addr {
	remote, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{} // not a network connection: all of these count as one
	}
	at := remote.Addr().Unmap().WithZone("")
	hops := strings.Join(r.Header.Values("X-Forwarded-For"), ",")
	for hops != "" && a.trusted(at) {
		last := hops
		if i := strings.LastIndexByte(hops, ','); i >= 0 {
			hops, last = hops[:i], hops[i+1:]
		} else {
			hops = ""
		}
		hop, err := netip.ParseAddr(strings.TrimSpace(last))
		if err != nil {
			break
		}
		at = hop.Unmap().WithZone("")
	}
	if at.Is6() {
		if prefix, err := at.Prefix(64); err == nil {
			return prefix.Addr()
		}
	}
	return at
}

func (a addresses) trusted(at netip.Addr) bool {
	for _, p := range a.proxies {
		if p.Contains(at) {
			return true
		}
	}
	return false
}
