package publish

import "gocloud.dev/blob"

// Bucket is where p writes.
func (p *Publisher) Bucket() *blob.Bucket { return p.bucket.Bucket }

// ParseCheckpoint reads a note, for fuzzing.
func ParseCheckpoint(b []byte) (origin string, size uint64, root []byte, signatures int, err error) {
	c, err := parseCheckpoint(b)
	return c.origin, c.size, c.root, c.signatures, err
}
