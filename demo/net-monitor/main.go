// Command net-monitor is the demo's product: it checks that TCP addresses
// accept connections, all at once, and exits 1 when one does not.
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sync/errgroup"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := check(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "net-monitor:", err)
		os.Exit(1)
	}
}

// check dials every address and returns the first failure.
func check(ctx context.Context, addresses []string) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, address := range addresses {
		g.Go(func() error {
			var d net.Dialer
			conn, err := d.DialContext(ctx, "tcp", address)
			if err != nil {
				return err
			}
			return conn.Close()
		})
	}
	return g.Wait()
}
