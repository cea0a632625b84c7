// Package interop shows that the OCI clients people have work through scittd's
// front, whatever registry stands behind it. make interop runs the real programs
// (crane, regctl, skopeo, cosign) and those that are no programs here (oras by its
// library; docker's and containerd's ways of asking, over plain HTTP) against every
// backend, and prints the table of docs/interop.md. go test runs the clients and
// backends that need no further program.
//
// It looks at scittd from outside, as the binary that ships, and knows nothing of
// how the front works.
package interop
