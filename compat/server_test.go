//go:build !patroni

package compat

import "github.com/scittd/scittd/internal/testenv"

// launch starts the server of a run without a DSN.
func launch() (dsn string, stop func() error, err error) {
	pg, err := testenv.Launch()
	if err != nil {
		return "", nil, err
	}
	return pg.DSN("postgres"), pg.Close, nil
}
