package storage

import (
	"crypto/tls"
	"fmt"

	"oras.land/oras-go/v2/registry"
)

// Endpoint is where the registry that people call host answers, and the hosts
// that its token service may have besides: docker.io is at registry-1.docker.io.
func Endpoint(host string) (address string, tokens []string, err error) {
	ref := registry.Reference{Registry: host}
	if err := ref.ValidateRegistry(); err != nil {
		return "", nil, fmt.Errorf("registry host %q: want name or name:port", host)
	}
	if realm, ok := tokenHosts[ref.Host()]; ok {
		tokens = []string{realm}
	}
	return ref.Host(), tokens, nil
}

// TLSConfig is how registries are recognised: by the roots in a PEM file, "" for
// the system's.
func TLSConfig(caFile string) (*tls.Config, error) { return RemoteOptions{CAFile: caFile}.tls() }
