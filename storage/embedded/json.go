package embedded

import (
	"fmt"
	"strconv"

	"github.com/scittd/scittd/storage"
)

func text(value []byte) (string, error) {
	s, ok := storage.Text(value)
	if !ok {
		return "", fmt.Errorf("%s is not a string", start(value))
	}
	return s, nil
}

func integer(value []byte) (int64, error) {
	n, err := strconv.ParseInt(string(value), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s is not an integer", start(value))
	}
	return n, nil
}

// start shows a value in a message.
func start(value []byte) string { return clip(string(value[:min(len(value), 201)])) }
