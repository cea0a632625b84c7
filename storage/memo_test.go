package storage_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/scittd/scittd/storage"
	"github.com/scittd/scittd/storage/storagetest"
)

// memo is one in memory, shared by the processes of a test.
type memo struct {
	mu     sync.Mutex
	found  map[string]finding
	broken error
	asked  int
}

type finding struct {
	capability string
	at         time.Time
}

func (m *memo) Capability(_ context.Context, registry, repository string) (string, time.Time, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked++
	f := m.found[registry+"/"+repository]
	return f.capability, f.at, m.broken
}

func (m *memo) SetCapability(_ context.Context, registry, repository, capability string, at time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.broken == nil {
		m.found[registry+"/"+repository] = finding{capability, at}
	}
	return m.broken
}

func (m *memo) knows(d doubled) string { return m.found[d.host+"/"+repoName].capability }

func TestWhatIsFoundOutIsRememberedForOthers(t *testing.T) {
	for _, tt := range []struct {
		double, finding string
		waits           []time.Duration // of the first process, for a list that does not come
	}{
		{"Harbor", "api", nil},
		{"GHCR", "tags", nil},
		{"ECR", "tags", nil},
		{"Quay", "both", patience},
	} {
		t.Run(tt.double, func(t *testing.T) {
			d := start(t, storagetest.ByName(tt.double))
			m := &memo{found: map[string]finding{}}
			process := func(entry string) (waits []time.Duration) {
				var p impatient
				if _, err := p.placer().Transparency(t.Context(), open(t, d.host, storage.RemoteOptions{Memo: m}), d.subject, transparency(entry)); err != nil {
					t.Fatal(err)
				}
				return p.waits
			}
			if waits := process("e1"); len(waits) != len(tt.waits) {
				t.Errorf("the first waited %v, want %v", waits, tt.waits)
			}
			if got := m.knows(d); got != tt.finding {
				t.Fatalf("remembered %q, want %q", got, tt.finding)
			}
			at := m.found[d.host+"/"+repoName].at
			d.Requests()
			if waits := process("e2"); len(waits) != 0 {
				t.Errorf("the second waited %v, for what the first knew", waits)
			}
			if got := d.Requests()["GET referrer"]; tt.finding == "tags" && got != 0 {
				t.Errorf("the second asked an API that is not there, %d times", got)
			}
			if again := m.found[d.host+"/"+repoName]; again.at != at {
				t.Errorf("a finding of %v was made new at %v, by who did not find it out", at, again.at)
			}
		})
	}
}

func TestAFindingHoldsForADayAndAFailingMemoForNothing(t *testing.T) {
	for _, tt := range []struct {
		name string
		old  finding
		err  error
	}{
		{"a day old", finding{"tags", time.Now().Add(-25 * time.Hour)}, nil},
		{"not understood", finding{"by carrier pigeon", time.Now()}, nil},
		{"by order of another's profile", finding{"off", time.Now()}, nil},
		{"a memo that fails", finding{}, errors.New("the database is down")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := start(t, storagetest.ByName("Harbor"))
			m := &memo{found: map[string]finding{d.host + "/" + repoName: tt.old}, broken: tt.err}
			repo := open(t, d.host, storage.RemoteOptions{Memo: m})
			mustPlace(t, repo, d.subject)
			if d.Requests()["PUT list"] != 0 {
				t.Error("a tag was written where the API lists")
			}
			if got := m.knows(d); tt.err == nil && got != "api" {
				t.Errorf("remembered %q, want api", got)
			}
			if m.asked > 1 {
				t.Errorf("the memo was asked %d times within moments", m.asked)
			}
		})
	}
}

func TestAMemoIsNotBelievedAgainstTheList(t *testing.T) {
	d := start(t, storagetest.ByName("Quay"))
	m := &memo{found: map[string]finding{d.host + "/" + repoName: {"api", time.Now()}}} // it was, yesterday
	var p impatient
	dig, err := p.placer().Transparency(t.Context(), open(t, d.host, storage.RemoteOptions{Memo: m}), d.subject, transparency("e1"))
	if err != nil {
		t.Fatal(err)
	}
	if got := digests(tagLists(t, d.host, d.subject)); len(got) != 1 || got[0] != dig {
		t.Errorf("the tag lists %v, want %s", got, dig)
	}
	if got := m.knows(d); got != "both" {
		t.Errorf("remembered %q, want both", got)
	}
}

func TestAProfileThatOrdersNeedsNoMemo(t *testing.T) {
	d := start(t, storagetest.ByName("Harbor"))
	m := &memo{found: map[string]finding{}}
	repo := open(t, d.host, storage.RemoteOptions{Memo: m, Profiles: []string{"127.0.0.1 referrers=tags"}})
	var p impatient
	p.both(t, repo, d.subject)
	if m.asked > 0 || len(m.found) > 0 {
		t.Errorf("asked %d times, told %v: others have other profiles", m.asked, m.found)
	}
}
