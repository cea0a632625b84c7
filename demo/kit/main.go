// Command kit makes what the demo needs besides the product's two binaries: an
// image without a container engine, an SBOM, a build claim, a certificate
// chain. It stands in for the tools that a real pipeline has for these.
package main

import (
	"context"
	"fmt"
	"net"
	"os"
)

const usage = `usage: kit port                        print a free loopback port
       kit services                    run PostgreSQL and a registry; print where they are
       kit chain DIR ISS                write root.pem, chain.pem, leaf.pem: an x509 identity for ISS
       kit image BINARY REF             put a static binary into an image, push it, print its digest
       kit sbom BINARY                  print a CycloneDX SBOM from the binary's build info
       kit provenance BINARY DIGEST     print an in-toto SLSA provenance for the image DIGEST
       kit testresult NAME DIGEST       print an in-toto test result for the image DIGEST
       kit referrers REF                print what refers to the image, as a tree
       kit purge REF                    delete the image and every SBOM that refers to it`

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "kit:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	is := func(verb string, n int) bool { return len(args) == n+1 && args[0] == verb }
	switch {
	case is("port", 0):
		return port()
	case is("services", 0):
		return services(ctx)
	case is("chain", 2):
		return chain(args[1], args[2])
	case is("image", 2):
		return image(ctx, args[1], args[2])
	case is("sbom", 1):
		return sbom(args[1])
	case is("provenance", 2):
		return provenance(args[1], args[2])
	case is("testresult", 2):
		return testResult(args[1], args[2])
	case is("referrers", 1):
		return referrers(ctx, args[1])
	case is("purge", 1):
		return purge(ctx, args[1])
	}
	return fmt.Errorf("%q\n%s", args, usage)
}

func port() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	fmt.Println(port)
	return err
}
