package registrar_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/scittd/scittd/internal/registrar"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/ledgertest"
	"github.com/scittd/scittd/statement"
	"github.com/scittd/scittd/storage"
	"github.com/scittd/scittd/storage/storagetest"
)

// outside is a world whose claims are placed in a registry elsewhere.
type outside struct {
	*world
	double *storagetest.Registry
	remote *storage.Remote
	repo   storage.Repository
	server *httptest.Server
	lie    func(w http.ResponseWriter, r *http.Request) bool // instead of the double; nil: none
}

func newOutside(t *testing.T, name string) *outside {
	o := &outside{world: newWorld(t), double: storagetest.ByName(name).Start()}
	o.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if o.lie == nil || !o.lie(w, r) {
			o.double.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(o.server.Close)
	var err error
	o.remote, err = storage.OpenRemote(strings.TrimPrefix(o.server.URL, "http://"), storage.RemoteOptions{
		PlainHTTP: true, Credentials: func(context.Context, string) (storage.Credential, error) { return storage.Credential{}, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.remote.Close)
	if o.repo, err = o.remote.Repository(repository); err != nil {
		t.Fatal(err)
	}
	// The same image as in the embedded registry.
	from, err := o.registry.Repository(repository)
	if err != nil {
		t.Fatal(err)
	}
	desc, body, err := from.Manifest(t.Context(), "v1")
	if err != nil {
		t.Fatal(err)
	}
	var m document
	if err := json.Unmarshal(body, &m); err != nil {
		t.Fatal(err)
	}
	for _, blob := range append(m.Layers, *m.Config) {
		if err := o.repo.PushBlob(t.Context(), blob.Digest, blob.Size, func() (io.ReadCloser, error) {
			rc, _, err := from.Blob(t.Context(), blob.Digest)
			return rc, err
		}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := o.repo.PushManifest(t.Context(), desc.MediaType, body, "v1"); err != nil {
		t.Fatal(err)
	}
	return o
}

// place registers n claims and places them.
func (o *outside) place(n int) (entries []statement.ID) {
	o.Helper()
	for i := range n {
		claim := o.mustRegister(o.publisher.Sign(o, statement.Template{ // with its payload
			Subject: "pkg:oci/net-monitor@" + string(o.image), ContentType: ledgertest.SBOM, Payload: fmt.Appendf(nil, "sbom %d", i),
		}))
		entries = append(entries, claim.Entry.ID)
	}
	o.placed(entries)
	return entries
}

// placed delivers all, and returns the digests of what hangs on the image.
func (o *outside) placed(entries []statement.ID) (manifests []string) {
	o.Helper()
	for _, id := range entries {
		for _, d := range o.deliver(o.remote, id) {
			if d.State != ledger.Done {
				o.Fatalf("delivery of %s: %+v", id, d)
			}
			manifests = append(manifests, string(d.Manifest))
		}
	}
	return slices.Compact(slices.Sorted(slices.Values(manifests)))
}

func (o *outside) reconcile(options registrar.ReconcilerOptions) (registrar.Reconciliation, []registrar.Finding, error) {
	o.Helper()
	var found []registrar.Finding
	options.Found = func(f registrar.Finding) { found = append(found, f) }
	done, err := registrar.NewReconciler(o.ledger, o.store, func(h string) (storage.Registry, error) {
		if h != host {
			return nil, fmt.Errorf("asked for registry %s, not %s", h, host)
		}
		return o.remote, nil
	}, options).Reconcile(o.Context(), host)
	return done, found, err
}

// clean fails unless all is as it was placed.
func (o *outside) clean(placed int) {
	o.Helper()
	done, found, err := o.reconcile(registrar.ReconcilerOptions{})
	if err != nil || len(found) > 0 || done.Images != 1 || done.Placed != placed || done.Queued > 0 {
		o.Errorf("reconciled: %+v, %+v, %v; want %d artifacts beside one image, as they were placed", done, found, err, placed)
	}
}

func kinds(found []registrar.Finding) []string {
	var all []string
	for _, f := range found {
		all = append(all, f.Delivery.Artifact+" "+f.Kind)
	}
	slices.Sort(all)
	return all
}

func TestWhatARegistrySweptComesBack(t *testing.T) {
	for _, name := range []string{"GHCR", "distribution v3", "Zot"} {
		t.Run(name, func(t *testing.T) {
			o := newOutside(t, name)
			entries := o.place(2)
			before := o.placed(entries)
			o.clean(4)
			if n := o.double.Sweep(repository, func(hasSubject bool) bool { return hasSubject }); n != 4 {
				t.Fatalf("%d manifests were swept, want 4", n)
			}
			kind := registrar.NotThere // the tag still lists them
			if name == "Zot" {
				kind = registrar.NotListed
			}
			want := []string{"evidence " + kind, "evidence " + kind, "transparency " + kind, "transparency " + kind}

			done, found, err := o.reconcile(registrar.ReconcilerOptions{DryRun: true})
			if err != nil || !slices.Equal(kinds(found), want) || done.Queued != 4 || found[0].Queued {
				t.Errorf("dry run: %+v, %v, %v; want %v", done, kinds(found), err, want)
			}
			for _, id := range entries {
				if d, err := o.ledger.Deliveries(t.Context(), id, ledger.All); err != nil || d[0].State != ledger.Done {
					t.Errorf("a dry run left %+v, %v", d, err)
				}
			}
			woken := false
			_, found, err = o.reconcile(registrar.ReconcilerOptions{Wake: func() { woken = true }})
			if err != nil || !slices.Equal(kinds(found), want) || !found[0].Queued || !woken {
				t.Errorf("%v, %v, woken %v; want %v", kinds(found), err, woken, want)
			}
			if after := o.placed(entries); !slices.Equal(after, before) {
				t.Errorf("placed again as %v, first as %v", after, before)
			}
			o.clean(4)
		})
	}
}

func TestWhatIsNotListedAnyMoreIsListedAgain(t *testing.T) {
	o := newOutside(t, "Docker Hub")
	entries := o.place(2)
	before := o.placed(entries)
	// skopeo copies an image and drops what refers to it; another client overwrites the list.
	tag := strings.Replace(string(o.image), ":", "-", 1)
	const empty = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`
	if _, err := o.repo.PushManifest(t.Context(), "application/vnd.oci.image.index.v1+json", []byte(empty), tag); err != nil {
		t.Fatal(err)
	}
	if _, found, err := o.reconcile(registrar.ReconcilerOptions{Repositories: []string{"wabbit/other"}}); err != nil || len(found) > 0 {
		t.Errorf("another repository: %v, %v", kinds(found), err)
	}
	n := registrar.NotListed
	if _, found, err := o.reconcile(registrar.ReconcilerOptions{Repositories: []string{repository}}); err != nil ||
		!slices.Equal(kinds(found), []string{"evidence " + n, "evidence " + n, "transparency " + n, "transparency " + n}) {
		t.Errorf("%v, %v", kinds(found), err)
	}
	if after := o.placed(entries); !slices.Equal(after, before) {
		t.Errorf("placed again as %v, first as %v", after, before)
	}
	o.clean(4)
}

func TestOtherContentIsAnAlarmAndNotPushedOver(t *testing.T) {
	o := newOutside(t, "Docker Hub")
	entries := o.place(1)
	deliveries, err := o.ledger.Deliveries(t.Context(), entries[0], ledger.All)
	if err != nil {
		t.Fatal(err)
	}
	proof := deliveries[1]
	_, body, err := o.repo.Manifest(t.Context(), string(proof.Manifest))
	if err != nil {
		t.Fatal(err)
	}
	// Somebody hangs another artifact on the image that says to be of the same entry.
	var m document
	if err := json.Unmarshal(body, &m); err != nil {
		t.Fatal(err)
	}
	forged := strings.ReplaceAll(string(body), m.Layers[1].Digest, m.Layers[0].Digest)
	if forged == string(body) {
		t.Fatal("nothing was forged")
	}
	if _, err := o.repo.PushManifest(t.Context(), m.MediaType, []byte(forged), ""); err != nil {
		t.Fatal(err)
	}
	done, found, err := o.reconcile(registrar.ReconcilerOptions{})
	if err != nil || !slices.Equal(kinds(found), []string{"transparency " + registrar.OtherContent}) || done.Queued != 0 || !strings.Contains(found[0].Detail, digestOf([]byte(forged))) {
		t.Errorf("a second artifact: %+v, %+v, %v", done, found, err)
	}
	// The registry gives other bytes for a digest.
	o.lie = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, string(proof.Manifest)) {
			return false
		}
		w.Header().Set("Content-Type", m.MediaType)
		w.Header().Set("Docker-Content-Digest", string(proof.Manifest))
		io.WriteString(w, forged)
		return true
	}
	_, found, err = o.reconcile(registrar.ReconcilerOptions{})
	if err != nil || !slices.Equal(kinds(found), []string{"transparency " + registrar.OtherContent}) || found[0].Queued {
		t.Errorf("other bytes: %+v, %v", found, err)
	}
}

func TestAnImageThatIsGoneIsNobodysFault(t *testing.T) {
	for _, name := range []string{"Azure", "Docker Hub"} {
		o := newOutside(t, name)
		o.place(1)
		if err := o.repo.(storage.Deleter).DeleteManifest(t.Context(), string(o.image)); err != nil {
			t.Fatal(err)
		}
		done, found, err := o.reconcile(registrar.ReconcilerOptions{})
		want := []string{"evidence " + registrar.ImageGone, "transparency " + registrar.ImageGone}
		if name == "Docker Hub" {
			want = nil // which keeps what referred to it
		}
		if err != nil || !slices.Equal(kinds(found), want) || done.Queued != 0 {
			t.Errorf("%s: %+v, %v, %v; want %v", name, done, kinds(found), err, want)
		}
	}
}

func TestEvidenceThatIsGoneIsMissingUntilItIsBack(t *testing.T) {
	o := newOutside(t, "Docker Hub")
	entries := o.place(1)
	entry, err := o.ledger.Entry(t.Context(), entries[0], ledger.All)
	if err != nil {
		t.Fatal(err)
	}
	custodian := registrar.NewCustodian(o.ledger, o.store, func(string) (storage.Registry, error) { return o.remote, nil }, registrar.CustodianOptions{Owner: "test", Registry: host})
	states := func() (all []string) {
		t.Helper()
		absences, err := o.store.Absences(t.Context(), []uint64{entry.Index})
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range absences {
			all = append(all, a.State)
		}
		return all
	}
	if err := o.repo.(storage.Deleter).DeleteBlob(t.Context(), string(entry.Evidence)); err != nil {
		t.Fatal(err)
	}
	_, found, err := o.reconcile(registrar.ReconcilerOptions{Custodian: custodian})
	if err != nil || !slices.Equal(kinds(found), []string{"evidence " + registrar.NotThere}) || !slices.Equal(states(), []string{ledger.EvidenceMissing}) {
		t.Errorf("%v, %v; the evidence is %v, want it missing", kinds(found), err, states())
	}
	o.placed(entries) // the payload is attached: its bytes come from the ledger
	if _, found, err := o.reconcile(registrar.ReconcilerOptions{Custodian: custodian}); err != nil || len(found) > 0 || len(states()) > 0 {
		t.Errorf("%v, %v; the evidence is %v, want it placed", kinds(found), err, states())
	}
	// What was purged is not looked for.
	if err := custodian.Purge(t.Context(), entries[0], ledger.All, "test", "retention"); err != nil {
		t.Fatal(err)
	}
	if err := o.repo.(storage.Deleter).DeleteBlob(t.Context(), string(entry.Evidence)); err != nil {
		t.Fatal(err)
	}
	if done, found, err := o.reconcile(registrar.ReconcilerOptions{Custodian: custodian}); err != nil || len(found) > 0 || done.Placed != 1 {
		t.Errorf("after a purge: %+v, %v, %v", done, kinds(found), err)
	}
}

func TestARegistryThatIsAwayIsNotTakenForOneThatLostEverything(t *testing.T) {
	o := newOutside(t, "Docker Hub")
	o.place(1)
	o.lie = func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	}
	done, found, err := o.reconcile(registrar.ReconcilerOptions{})
	if err == nil || len(found) > 0 || done.Queued > 0 {
		t.Errorf("%+v, %v, %v; want an error and no finding", done, kinds(found), err)
	}
}
