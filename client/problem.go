package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/scittd/scittd/api/apitype"
	"github.com/scittd/scittd/internal/detcbor"
)

// Problem is a refusal in the service's own words, which are a stranger's.
// Fields that it did not send are empty; Title falls back to the status, and
// Status is that of the answer, whatever the document says.
type Problem struct {
	apitype.Problem
	Host       string        // who says so
	RetryAfter time.Duration // when to come back; 0: it did not say
}

func (p *Problem) Error() string {
	if p.Detail == "" {
		return p.Title
	}
	return p.Title + ": " + p.Detail
}

// IsNotFound says whether the service knows nothing of what was asked for, or
// does not show it to this caller.
func IsNotFound(err error) bool {
	p := (*Problem)(nil)
	return errors.As(err, &p) && p.Status == http.StatusNotFound
}

// unexpected turns an answer that was not hoped for into a *Problem. It reads
// RFC 9290 and RFC 9457 and survives anything else, such as a proxy's page.
func (c *Client) unexpected(a answer) error {
	p := &Problem{Host: c.base, RetryAfter: a.retryAfter}
	switch a.mediaType {
	case conciseType:
		p.Problem = readConcise(a.body)
	case "application/problem+json":
		if json.Unmarshal(a.body, &p.Problem) != nil {
			p.Problem = apitype.Problem{}
		}
	}
	p.Status = a.status
	if p.Title == "" {
		p.Title = fmt.Sprintf("status %d %s", a.status, http.StatusText(a.status))
	}
	return p
}

const conciseType = "application/concise-problem-details+cbor"

// Keys of concise problem details (RFC 9290 §2), and of our own entry in them.
const (
	titleKey  = int64(-1)
	detailKey = int64(-2)
	ourKey    = "https://github.com/scittd/scittd"
)

// readConcise reads as much as it understands.
func readConcise(body []byte) apitype.Problem {
	var m map[any]detcbor.RawMessage
	if detcbor.Unmarshal(body, &m) != nil {
		return apitype.Problem{}
	}
	p := apitype.Problem{Title: oltext(m[titleKey]), Detail: oltext(m[detailKey])}
	var ours map[string]any // it grows: unknown keys are no error
	if detcbor.Unmarshal(m[ourKey], &ours) != nil {
		return p
	}
	text := func(key string) string { s, _ := ours[key].(string); return s }
	p.Code, p.Hint, p.Rule = text("code"), text("hint"), text("rule")
	p.PolicyEntry, p.EntryID, p.TraceID = text("policyEntry"), text("entryId"), text("traceId")
	return p
}

// oltext reads text, or the text in tag 38: [language, text, ? direction]
// (RFC 9290 §2).
func oltext(raw detcbor.RawMessage) string {
	var text string
	var tag detcbor.Tag
	if detcbor.Unmarshal(raw, &tag) != nil {
		detcbor.Unmarshal(raw, &text) // what is no text either leaves it empty
		return text
	}
	if parts, ok := tag.Content.([]any); ok && tag.Number == 38 && len(parts) >= 2 {
		text, _ = parts[1].(string)
	}
	return text
}
