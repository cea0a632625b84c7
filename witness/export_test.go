package witness

import "context"

// Ask lets c ask whoever is due, as Run does on every tick.
func (c *Cosigner) Ask(ctx context.Context) { c.ask(ctx) }

// Take waits for one answer and takes it, as Run does.
func (c *Cosigner) Take() { c.take(<-c.answers) }

// Round is a tick and all answers to it.
func (c *Cosigner) Round(ctx context.Context) {
	c.ask(ctx)
	for c.underWay() {
		c.Take()
	}
}

// Line takes w's cosignature of signed out of an answer.
func (w *Witness) Line(signed, answer []byte) (string, error) {
	cp, err := parseCheckpoint(signed)
	if err != nil {
		return "", err
	}
	return w.line(cp, answer)
}

// Backoff, MaxDelay and MaxAnswer are the limits that tests hold c to.
var Backoff = backoff

const (
	MaxDelay  = maxDelay
	MaxAnswer = maxAnswer
)
