//go:build race

package detcbor

// The race detector keeps the compiler from growing a slice in place: a piece
// that is appended is allocated on its own, too.
const piecesAppended = 2
