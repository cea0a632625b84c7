package testenv

import "errors"

// Services starts a PostgreSQL cluster and a docker-registry for the demo, which
// is no test. They are gone after stop, or with the process.
func Services() (dsn, registry string, stop func() error, err error) {
	p, err := Launch()
	if err != nil {
		return "", "", nil, err
	}
	host, w, err := startRegistry("docker-registry", "")
	if err != nil {
		return "", "", nil, errors.Join(err, p.Close())
	}
	return p.DSN("postgres"), host, func() error { return errors.Join(w.close(), p.Close()) }, nil
}
