package storage

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
)

// Credential is what a registry asks for. The zero value is an anonymous
// caller. It prints as REDACTED.
type Credential struct {
	Username, Password string
	RefreshToken       string // an identity token, instead of both
}

// String keeps the secret out of logs and messages.
func (Credential) String() string { return "REDACTED" }

// GoString does the same for %#v.
func (Credential) GoString() string { return "REDACTED" }

// dockerCredentials reads a docker config file, and asks the credential helpers
// it names. path "" is the usual place; nobody has logged in where there is none.
func dockerCredentials(path string) (auth.CredentialFunc, error) {
	options := credentials.StoreOptions{}
	if path == "" {
		if os.Getenv("DOCKER_CONFIG") == "" && os.Getenv("HOME") == "" {
			return nil, nil // a service account without a home
		}
		store, err := credentials.NewStoreFromDocker(options)
		if err != nil {
			return nil, err
		}
		return credentials.Credential(store), nil
	}
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		path = filepath.Join(path, "config.json") // as $DOCKER_CONFIG names it
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, err // somebody named it: do not go on without
	}
	store, err := credentials.NewStore(path, options)
	if err != nil {
		return nil, err
	}
	return credentials.Credential(store), nil
}

// orasCredentials is ask in oras-go's terms, for this registry and no other.
func orasCredentials(registry string, ask func(ctx context.Context, host string) (Credential, error)) auth.CredentialFunc {
	return func(ctx context.Context, host string) (auth.Credential, error) {
		if host != registry {
			return auth.EmptyCredential, nil
		}
		c, err := ask(ctx, host)
		return auth.Credential{Username: c.Username, Password: c.Password, RefreshToken: c.RefreshToken}, err
	}
}
