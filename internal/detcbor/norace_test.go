//go:build !race

package detcbor

const piecesAppended = 1
