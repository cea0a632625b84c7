package interop

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

const tokenAudience, tokenIssuer = "interop registry", "interop issuer"

// tokenService runs a token service as Docker Hub's or Harbor's is one, on another
// port than the registry's, and returns its host:port and the section of
// distribution's configuration that trusts it. Everybody may pull, user may do
// everything.
func tokenService(t *testing.T) (host, auth string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}, &x509.Certificate{}, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	roots := readable(t, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, secret, given := r.BasicAuth()
		if given && (name != user || secret != password) {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		token, err := mint(key, der, r.URL.Query()["scope"], name == user)
		if err != nil || r.URL.Query().Get("service") != tokenAudience {
			http.Error(w, fmt.Sprint("what service is this? ", err), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"token": %q, "expires_in": 300}`, token)
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://"), fmt.Sprintf("auth:\n  token: {realm: %s/token, service: %s, issuer: %s, rootcertbundle: %s}\n",
		s.URL, tokenAudience, tokenIssuer, roots)
}

// mint makes a token for scopes ("repository:a/b:pull,push", several in one when
// a blank is between them). Source: distribution, "Token Authentication
// Implementation".
func mint(key *ecdsa.PrivateKey, certificate []byte, scopes []string, all bool) (string, error) {
	type access struct {
		Type    string   `json:"type"`
		Name    string   `json:"name"`
		Actions []string `json:"actions"`
	}
	granted := []access{}
	for _, scope := range strings.Fields(strings.Join(scopes, " ")) {
		kind, rest, _ := strings.Cut(scope, ":")
		colon := strings.LastIndexByte(rest, ':')
		if colon < 0 {
			return "", fmt.Errorf("scope %q", scope)
		}
		actions := []string{}
		for _, action := range strings.Split(rest[colon+1:], ",") {
			if all || action == "pull" {
				actions = append(actions, action)
			}
		}
		granted = append(granted, access{kind, rest[:colon], actions})
	}
	now := time.Now()
	claims := map[string]any{
		"iss": tokenIssuer, "sub": "", "aud": tokenAudience, "access": granted, "jti": rand.Text(),
		"iat": now.Unix(), "nbf": now.Add(-time.Minute).Unix(), "exp": now.Add(5 * time.Minute).Unix(),
	}
	header := map[string]any{"typ": "JWT", "alg": "ES256", "x5c": [][]byte{certificate}}
	var parts []string
	for _, part := range []any{header, claims} {
		text, err := json.Marshal(part)
		if err != nil {
			return "", err
		}
		parts = append(parts, base64.RawURLEncoding.EncodeToString(text))
	}
	digest := sha256.Sum256([]byte(strings.Join(parts, ".")))
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		return "", err
	}
	signature := append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
	return strings.Join(append(parts, base64.RawURLEncoding.EncodeToString(signature)), "."), nil
}
