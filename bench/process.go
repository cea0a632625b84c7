package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// tick is the unit of CPU times in /proc (USER_HZ, 100 on every Linux).
const tick = 10 * time.Millisecond

// cpu returns the CPU time that process pid has used, user and system.
func cpu(pid int) (time.Duration, error) {
	f, err := stat(pid)
	if err != nil {
		return 0, err
	}
	return f.own, nil
}

// familyCPU adds what the children of pid use, and those that it has seen end.
func familyCPU(pid int) (time.Duration, error) {
	f, err := stat(pid)
	if err != nil {
		return 0, err
	}
	total := f.own + f.ended
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return 0, err
	}
	for _, p := range procs {
		child, err := strconv.Atoi(filepath.Base(p))
		if err != nil {
			return 0, err
		}
		if f, err := stat(child); err == nil && f.parent == pid { // others may end meanwhile
			total += f.own
		}
	}
	return total, nil
}

type statFields struct {
	parent     int
	own, ended time.Duration
}

// stat reads /proc/pid/stat (proc(5)).
func stat(pid int) (statFields, error) {
	var f statFields
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return f, err
	}
	_, after, ok := bytes.Cut(b, []byte(") ")) // the name may hold spaces
	fields := strings.Fields(string(after))
	if !ok || len(fields) < 15 {
		return f, fmt.Errorf("/proc/%d/stat: %q", pid, b)
	}
	n := func(field int) time.Duration { // numbered as in the manual, state is 3
		v, convErr := strconv.ParseInt(fields[field-3], 10, 64)
		if convErr != nil {
			err = convErr
		}
		return time.Duration(v)
	}
	f.parent, f.own, f.ended = int(n(4)), (n(14)+n(15))*tick, (n(16)+n(17))*tick
	return f, err
}

// rss returns the resident memory of pid in bytes: the median of a second, so
// that one garbage collection more or less does not decide.
func rss(pid int) (int64, error) {
	var seen []int64
	for range 20 {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
		if err != nil {
			return 0, err
		}
		fields := strings.Fields(string(b))
		if len(fields) < 2 {
			return 0, fmt.Errorf("/proc/%d/statm: %q", pid, b)
		}
		pages, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			return 0, err
		}
		seen = append(seen, pages*int64(os.Getpagesize()))
		time.Sleep(50 * time.Millisecond)
	}
	return median(seen), nil
}

// fdatasync returns the median time to append 8 KB to a file in dir and have
// them on disk: what no commit can be faster than.
func fdatasync(dir string) (_ time.Duration, err error) {
	f, err := os.CreateTemp(dir, "fdatasync-")
	if err != nil {
		return 0, err
	}
	defer func() {
		f.Close()
		os.Remove(f.Name())
	}()
	// PostgreSQL writes into segments that have their size already.
	const writes, size = 200, 8192
	if err := f.Truncate(writes * size); err != nil {
		return 0, err
	}
	if _, err := f.WriteAt(make([]byte, writes*size), 0); err != nil {
		return 0, err
	}
	if err := f.Sync(); err != nil {
		return 0, err
	}
	block := bytes.Repeat([]byte{1}, size)
	var took []time.Duration
	for i := range int64(writes) {
		begin := time.Now()
		if _, err := f.WriteAt(block, i*size); err != nil {
			return 0, err
		}
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			return 0, err
		}
		took = append(took, time.Since(begin))
	}
	return median(took), nil
}

// sleep returns the median time that a thread sleeps which asks the kernel for d:
// longer, by the timer's slack and by being woken up.
func sleep(d time.Duration) (time.Duration, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ask := unix.NsecToTimespec(d.Nanoseconds())
	var took []time.Duration
	for range 200 {
		begin := time.Now()
		if err := unix.Nanosleep(&ask, nil); err != nil && err != unix.EINTR { // cut short by the runtime: one of many
			return 0, err
		}
		took = append(took, time.Since(begin))
	}
	return median(took), nil
}

// threadCPU is the CPU time of the calling OS thread.
func threadCPU() (time.Duration, error) {
	var t unix.Timespec
	err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t)
	return time.Duration(t.Nano()), err
}

func median[T int64 | time.Duration | float64](v []T) T { return quantile(v, 0.5) }

// quantile sorts v; v is not empty.
func quantile[T int64 | time.Duration | float64](v []T, q float64) T {
	slices.Sort(v)
	return v[min(int(q*float64(len(v))), len(v)-1)]
}
