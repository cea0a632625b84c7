package cose

import "testing"

func BenchmarkVerify(b *testing.B) {
	for _, a := range []Algorithm{ES256, ES384, ES512, Ed25519, PS256} {
		b.Run(a.String(), func(b *testing.B) {
			key := testKey(b, a)
			sig, err := Sign(a, key, []byte("protected"), []byte("payload"))
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if err := Verify(a, key.Public(), []byte("protected"), []byte("payload"), sig); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("CheckKey/P-256", func(b *testing.B) {
		pub := testKey(b, ES256).Public()
		for b.Loop() {
			CheckKey(pub)
		}
	})
	b.Run("CheckKey/Ed25519", func(b *testing.B) {
		pub := testKey(b, Ed25519).Public()
		for b.Loop() {
			CheckKey(pub)
		}
	})
}
