package main

import (
	"context"
	"fmt"
	"os/signal"
	"syscall"

	"github.com/scittd/scittd/internal/testenv"
)

// services runs a throw-away PostgreSQL and a registry until it is told to end,
// and prints where they are as shell variables.
func services(ctx context.Context) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	dsn, registry, end, err := testenv.Services()
	if err != nil {
		return err
	}
	fmt.Printf("POSTGRES_URL='%s'\nREGISTRY=%s\n", dsn, registry)
	<-ctx.Done()
	return end()
}
