package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"runtime"
	"time"
)

// reference measures what an ES256 verification of the standard library costs
// while the load runs: in bursts on a thread of its own, by that thread's CPU
// clock, the first few of each burst dropped. A verification that finds its
// caches cold reads half as much again, and flatters every ratio made with it.
type reference struct {
	quit chan struct{}
	done chan struct{}
	seen []time.Duration
	err  error
}

const (
	burst  = 24
	warmUp = 8
	pause  = 250 * time.Millisecond
)

func startReference() *reference {
	r := &reference{quit: make(chan struct{}), done: make(chan struct{})}
	go r.run()
	return r
}

func (r *reference) run() {
	defer close(r.done)
	runtime.LockOSThread()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		r.err = err
		return
	}
	digest := sha256.Sum256([]byte("reference"))
	signature, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		r.err = err
		return
	}
	for {
		for i := range burst {
			begin, err := threadCPU()
			if err != nil {
				r.err = err
				return
			}
			if !ecdsa.VerifyASN1(&key.PublicKey, digest[:], signature) {
				r.err = errors.New("the reference signature does not verify")
				return
			}
			end, err := threadCPU()
			if err != nil {
				r.err = err
				return
			}
			if i >= warmUp {
				r.seen = append(r.seen, end-begin)
			}
		}
		select {
		case <-r.quit:
			return
		case <-time.After(pause):
		}
	}
}

func (r *reference) stop() (time.Duration, error) {
	close(r.quit)
	<-r.done
	if r.err != nil {
		return 0, r.err
	}
	return median(r.seen), nil
}
