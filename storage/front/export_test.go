package front

import "time"

// Impatient makes an Upstream give up after so long without a byte.
func Impatient(u *Upstream, d time.Duration) {
	u.waits = waits{body: d, head: d}
	u.pool.ResponseHeaderTimeout = d
}

// Expire forgets what registries have allowed to whom.
func Expire(u *Upstream) { u.rights.put(right{}, time.Now().Add(rightTime)) }
