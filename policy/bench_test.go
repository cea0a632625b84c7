package policy

import (
	"testing"

	"github.com/scittd/scittd/statement"
)

// What policy and identity add to the verification of a signature: compare each
// with Verify of the same run.
func BenchmarkEvaluate(b *testing.B) {
	key, root := newKey(b), newCA(b, "root")
	leaf := root.intermediate("policy").intermediate("issuing").leaf(acme)
	p := inForce(b, keyIssuer(wabbit, key), caIssuer(acme, root))
	pinned, chained := sign(b, wabbit, key), sign(b, acme, leaf, unprotected)

	b.Run("Verify", func(b *testing.B) {
		for b.Loop() {
			if err := pinned.Verify(key.Public()); err != nil {
				b.Fatal(err)
			}
		}
	})
	evaluate := func(s *statement.Statement, before func()) func(b *testing.B) {
		return func(b *testing.B) {
			for b.Loop() {
				before()
				if d := p.Evaluate(s, noon); d.Refusal != nil {
					b.Fatal(d.Refusal)
				}
			}
		}
	}
	b.Run("PinnedKey", evaluate(pinned, func() {}))
	b.Run("CachedChain", evaluate(chained, func() {}))
	b.Run("UnknownChain", evaluate(chained, func() { p.chains = newChainCache() }))
}
