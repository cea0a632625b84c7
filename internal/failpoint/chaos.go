//go:build chaos

package failpoint

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// order is what SCITTD_FAILPOINT asks for.
type order struct {
	at    Point
	nth   int64
	pause time.Duration // 0: die
	hits  atomic.Int64
}

var given = sync.OnceValue(func() *order {
	text := os.Getenv("SCITTD_FAILPOINT")
	where, pause, waits := strings.Cut(text, "=")
	name, nth, counted := strings.Cut(where, ":")
	o := &order{at: Point(name), nth: 1}
	var err error
	if counted {
		o.nth, err = strconv.ParseInt(nth, 10, 64)
	}
	if waits && err == nil {
		o.pause, err = time.ParseDuration(pause)
	}
	if err != nil {
		panic(fmt.Sprintf("SCITTD_FAILPOINT=%s: %v", text, err))
	}
	return o
})

// Hit says that the process is at p. It may not return.
func Hit(p Point) {
	o := given()
	if o.at != p {
		return
	}
	n := o.hits.Add(1)
	switch {
	case o.pause > 0 && n >= o.nth:
		time.Sleep(o.pause)
	case o.pause == 0 && n == o.nth:
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // until it comes
	}
}
