package main

import (
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

// sbom prints what the binary says it was built from. Same binary, same bytes:
// there is no time and no serial number in it.
func sbom(binary string) error {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return err
	}
	name := filepath.Base(binary)
	bom := cdx.NewBOM()
	bom.Metadata = &cdx.Metadata{Component: &cdx.Component{
		BOMRef: name, Type: cdx.ComponentTypeApplication, Name: name, Version: info.Main.Version,
		PackageURL: "pkg:golang/" + info.Path,
	}}
	components := []cdx.Component{{
		BOMRef: "pkg:golang/std@" + strings.TrimPrefix(info.GoVersion, "go"), Type: cdx.ComponentTypeLibrary,
		Name: "std", Version: info.GoVersion, PackageURL: "pkg:golang/std@" + strings.TrimPrefix(info.GoVersion, "go"),
	}}
	for _, module := range info.Deps {
		component, err := library(module)
		if err != nil {
			return err
		}
		components = append(components, component)
	}
	bom.Components = &components
	encoder := cdx.NewBOMEncoder(os.Stdout, cdx.BOMFileFormatJSON)
	return encoder.SetPretty(true).EncodeVersion(bom, cdx.SpecVersion1_6)
}

func library(module *debug.Module) (cdx.Component, error) {
	purl := "pkg:golang/" + module.Path + "@" + module.Version
	c := cdx.Component{BOMRef: purl, Type: cdx.ComponentTypeLibrary, Name: module.Path, Version: module.Version, PackageURL: purl}
	sum, ok := strings.CutPrefix(module.Sum, "h1:")
	if !ok {
		return c, nil
	}
	raw, err := base64.StdEncoding.DecodeString(sum)
	if err != nil {
		return c, fmt.Errorf("%s: %w", module.Path, err)
	}
	c.Hashes = &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: hex.EncodeToString(raw)}}
	return c, nil
}

// provenance prints a SLSA v1 build claim: which tool built the image's binary,
// with which settings, from which module.
func provenance(binary, digest string) error {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return err
	}
	content, err := os.ReadFile(binary)
	if err != nil {
		return err
	}
	parameters := map[string]string{}
	for _, s := range info.Settings {
		parameters[s.Key] = s.Value
	}
	return printStatement(digest, "https://slsa.dev/provenance/v1", map[string]any{
		"buildDefinition": map[string]any{
			"buildType":            "https://go.dev/cmd/go#build",
			"externalParameters":   map[string]any{"package": info.Path},
			"internalParameters":   parameters,
			"resolvedDependencies": []any{map[string]any{"name": info.GoVersion}},
		},
		"runDetails": map[string]any{
			"builder":    map[string]any{"id": "https://wabbit.example/builder"},
			"byproducts": []any{map[string]any{"name": filepath.Base(binary), "digest": sha256Of(content)}},
		},
	})
}

// testResult prints a verification claim.
func testResult(name, digest string) error {
	return printStatement(digest, "https://in-toto.io/attestation/test-result/v0.1", map[string]any{
		"result":        "PASSED",
		"configuration": []any{map[string]any{"name": name}},
		"passedTests":   []string{name},
	})
}

// printStatement prints an in-toto Statement v1 about an image.
func printStatement(digest, predicateType string, predicate any) error {
	algorithm, value, ok := strings.Cut(digest, ":")
	if !ok {
		return fmt.Errorf("%q is not a digest", digest)
	}
	out := json.NewEncoder(os.Stdout)
	out.SetIndent("", "  ")
	return out.Encode(map[string]any{
		"_type":         "https://in-toto.io/Statement/v1",
		"subject":       []any{map[string]any{"name": "net-monitor", "digest": map[string]string{algorithm: value}}},
		"predicateType": predicateType,
		"predicate":     predicate,
	})
}

func sha256Of(content []byte) map[string]string {
	sum := sha256.Sum256(content)
	return map[string]string{"sha256": hex.EncodeToString(sum[:])}
}
