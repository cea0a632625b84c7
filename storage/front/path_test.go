package front

import (
	"strings"
	"testing"
)

// No path is the extension's and a repository's at once, and what is read out
// of a path stands in it.
func FuzzPath(f *testing.F) {
	for _, path := range []string{
		"/v2/", "/v2", "/v2/_oci/ext/discover", "/v2/a/_oci/ext/discover", "/v2/a/_scitt/entries/register", "/v2/_scitt/receipts/1",
		"/v2/a/manifests/_x", "/v2/a/blobs/uploads/", "/v2/blobs/uploads/blobs/uploads", "/v2/a%2F_scitt/x", "/v2/a/../_scitt/x", "/v2//_scitt",
		"/v2/manifests/_x", "/v2/tags/list", "_", "",
	} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		e, extension := parseExtension(path)
		if extension {
			whole := "/v2/" + strings.TrimPrefix(e.repository+"/"+e.name, "/")
			if !strings.HasPrefix(e.name, "_") || path != whole && path != whole+"/"+e.path && !strings.HasPrefix(path, "/v2//") {
				t.Errorf("%q is read as %+v", path, e)
			}
			return
		}
		name := repositoryOf(path)
		if name == "" || !strings.HasPrefix(path, "/v2/") {
			return
		}
		if !strings.HasPrefix(path, "/v2/"+name+"/") {
			t.Errorf("%q names %q", path, name)
		}
		for _, segment := range strings.Split(name, "/") {
			if strings.HasPrefix(segment, "_") {
				t.Errorf("%q names %q", path, name)
			}
		}
	})
}
