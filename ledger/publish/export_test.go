package publish

import "gocloud.dev/blob"

// Bucket is where p writes.
func (p *Publisher) Bucket() *blob.Bucket { return p.bucket.Bucket }
