package main

import (
	"fmt"
	"strings"

	"github.com/scittd/scittd/internal/did"
	"github.com/scittd/scittd/internal/fetch"
	"github.com/scittd/scittd/storage"
)

func (l LookupConfig) check() error {
	switch {
	case l.Timeout <= 0:
		return fmt.Errorf("lookup.timeout: %v is no time", l.Timeout)
	case l.MaxAge <= 0:
		return fmt.Errorf("lookup.max_age: %v is no time", l.MaxAge)
	case l.Size < 1 || l.Size > did.MaxDocument:
		return fmt.Errorf("lookup.size: %d is not in 1..%d", l.Size, did.MaxDocument)
	}
	f, err := fetch.New(fetch.Options{Hosts: l.Hosts, Private: l.PrivateHosts})
	if err != nil {
		return fmt.Errorf("lookup: %w", err)
	}
	f.Close()
	return nil
}

// openFetcher prepares looking up what policies name. It asks nobody.
func openFetcher(l LookupConfig) (*fetch.Fetcher, error) {
	protected, err := storage.TLSConfig(l.CAFile)
	if err != nil {
		return nil, fmt.Errorf("%w: lookup.ca_file: %w", errConfig, err)
	}
	f, err := fetch.New(fetch.Options{
		Hosts: l.Hosts, Private: l.PrivateHosts, Roots: protected.RootCAs,
		Timeout: l.Timeout, Size: l.Size, MaxAge: l.MaxAge, UserAgent: "scittd/" + version(),
	})
	if err != nil {
		return nil, fmt.Errorf("%w: lookup: %w", errConfig, err)
	}
	return f, nil
}

// String says whom l lets this service ask.
func (l LookupConfig) String() string {
	who := "any public host"
	if len(l.Hosts) > 0 {
		who = strings.Join(l.Hosts, ", ")
	}
	if len(l.PrivateHosts) > 0 {
		who += ", and " + strings.Join(l.PrivateHosts, ", ") + " at private addresses"
	}
	return who + ", when the policy names it"
}
