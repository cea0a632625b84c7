package main

import (
	"context"
	"fmt"
	"net/url"
	"time"

	"github.com/scittd/scittd/api"
	"github.com/scittd/scittd/internal/registrar"
	"github.com/scittd/scittd/statement"
	"github.com/scittd/scittd/storage"
	"github.com/scittd/scittd/storage/front"
)

// How GET /v1/entries/{id}/evidence gives what is in a registry: Config.EvidenceDownload.
const (
	redirected = "redirect"
	streamed   = "stream"
)

// openCustodian prepares to know where evidence is. find is nil for a process
// that has no registry.
func (s *service) openCustodian(c Config, find func(host string) (storage.Registry, error), owner string) {
	if find == nil {
		find = func(host string) (storage.Registry, error) {
			return nil, fmt.Errorf("registry %s is not reached from here", host)
		}
	}
	s.custodian.Store(registrar.NewCustodian(s.ledger, s.db, find, registrar.CustodianOptions{
		Owner: owner, Registry: c.registryHost(), URL: c.blobURL, Log: s.log,
	}))
}

// blobURL is where clients find a blob that was placed; "" when it is streamed.
func (c *Config) blobURL(host, repository string, blob statement.Digest) string {
	if c.EvidenceDownload == streamed {
		return ""
	}
	if c.Registry.Host == "" || c.Registry.Front == inFront && c.Registry.PublicHost == "" {
		return api.BlobURL("", repository, blob) // it is served on this host
	}
	scheme := "https"
	if u, err := url.Parse(c.URL); err == nil && c.Registry.Front != beside {
		scheme = u.Scheme // of what stands before the registry
	} else if c.Registry.PlainHTTP || storage.Loopback(host) && storage.PlainHTTP(host) {
		scheme = "http"
	}
	return api.BlobURL(scheme+"://"+host, repository, blob)
}

// markTime is how long a deletion through the front waits for the ledger to hear
// of it. What it does not hear of, reconciliation finds missing.
const markTime = 2 * time.Second

// deleting tells the custodian what goes from the registry through the front.
func (s *service) deleting(r *front.Request) (done func()) {
	custodian := s.custodian.Load()
	if custodian == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(r.HTTP.Context(), markTime)
	defer cancel()
	deleted := custodian.Deleting(ctx, r.Repository, r.Reference, r.Blob)
	if deleted == nil {
		return nil
	}
	return func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.HTTP.Context()), markTime)
		defer cancel()
		who := "registry client"
		if a := s.api.Load(); a != nil {
			if name, err := a.CallerName(r.HTTP); err == nil && name != "" {
				who = name
			}
		}
		if err := deleted(ctx, who); err != nil {
			s.log.Warn("deletion not noted: its evidence will be found missing", "repository", r.Repository, "reference", r.Reference, "err", err)
		}
	}
}

// Knows and Saw make a service what the front tells of image indexes.
func (s *service) Knows(digest string) bool {
	custodian := s.custodian.Load()
	return custodian == nil || custodian.Knows(statement.Digest(digest))
}

func (s *service) Saw(digest string, body []byte) {
	if custodian := s.custodian.Load(); custodian != nil {
		custodian.SawIndex(statement.Digest(digest), body)
	}
}
