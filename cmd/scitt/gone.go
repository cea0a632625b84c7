package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/scittd/scittd/api/apitype"
)

// evidenceText says where the evidence of an entry is. What is gone is still
// named, for the claim about it stands.
func evidenceText(e apitype.Evidence) string {
	day := func(at *time.Time) string {
		if at == nil {
			return ""
		}
		return " " + at.UTC().Format(time.DateOnly)
	}
	switch e.State {
	case "purged":
		return fmt.Sprintf("purged%s (%s); claim proven by receipt", day(e.PurgedAt), e.Digest+inBytes(e.Size))
	case "missing":
		return fmt.Sprintf("missing, found gone%s (%s); claim proven by receipt", day(e.MissingSince), e.Digest+inBytes(e.Size))
	case "":
		return e.Digest
	}
	return e.Digest + "  " + e.State
}

// inBytes is a size behind a digest; "" when it is not known.
func inBytes(n int64) string {
	if n == 0 {
		return ""
	}
	digits := strconv.FormatInt(n, 10)
	var groups []string
	for len(digits) > 3 {
		groups = append([]string{digits[len(digits)-3:]}, groups...)
		digits = digits[:len(digits)-3]
	}
	return ", " + strings.Join(append([]string{digits}, groups...), ",") + " B"
}

// gone: nobody can fetch it any more.
func gone(e apitype.Evidence) bool { return e.State == "purged" || e.State == "missing" }
