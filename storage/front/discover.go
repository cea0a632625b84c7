package front

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"time"
)

// Extensions of the registry's own are a courtesy; ours are listed without them.
const (
	courtesyTime = 5 * time.Second
	maxDiscovery = 256 << 10
)

// extensions are those that the registry itself tells everybody of.
func (u *Upstream) extensions(r *http.Request, repository string) []discovered {
	ctx, cancel := context.WithTimeout(r.Context(), courtesyTime)
	defer cancel()
	path := "/v2/_oci/ext/discover"
	if repository != "" {
		if !validName(repository) {
			return nil
		}
		path = "/v2/" + repository + "/_oci/ext/discover"
	}
	resp, err := u.ask(ctx, r, http.MethodGet, path, nil)
	if err != nil {
		return nil
	}
	defer resp.Body.Close()
	var theirs struct {
		Extensions []discovered `json:"extensions"`
	}
	if resp.StatusCode != http.StatusOK || json.NewDecoder(io.LimitReader(resp.Body, maxDiscovery)).Decode(&theirs) != nil {
		return nil
	}
	var found []discovered
	for _, e := range theirs.Extensions {
		if e.Name != extensionName && e.Endpoints != nil {
			found = append(found, e)
		}
	}
	return found
}
