package main

import (
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/scittd/scittd/internal/registrar"
)

// retention is a file of rules by which evidence is purged:
//
//	rules:
//	  - name: scans
//	    olderThan: 90d                           # since the claim was registered
//	    mediaTypes: [application/sarif+json]     # any of them; none given: all
//	    repositories: ["internal/*"]             # patterns; every place of it must fit one; none given: all
//	    reason: scans are kept for 90 days       # goes into the ledger and onto the log
type retention struct {
	Rules []struct {
		Name         string   `yaml:"name"`
		OlderThan    string   `yaml:"olderThan"`
		MediaTypes   []string `yaml:"mediaTypes"`
		Repositories []string `yaml:"repositories"`
		Reason       string   `yaml:"reason"`
	} `yaml:"rules"`
}

// readRetention reads a file of rules, strictly: one that were misread might
// purge too much.
func readRetention(file string) ([]registrar.RetentionRule, error) {
	var text retention
	if err := readYAML(file, &text); err != nil {
		return nil, err
	}
	if len(text.Rules) == 0 {
		return nil, fmt.Errorf("%s: it has no rules", file)
	}
	var rules []registrar.RetentionRule
	for i, t := range text.Rules {
		wrong := func(key string, err error) error { return fmt.Errorf("%s: rules[%d].%s: %w", file, i, key, err) }
		age, err := parseAge(t.OlderThan)
		if err != nil {
			return nil, wrong("olderThan", err)
		}
		for _, pattern := range t.Repositories {
			if _, err := path.Match(pattern, ""); err != nil || pattern == "" {
				return nil, wrong("repositories", fmt.Errorf("%q is not a pattern such as internal/*", pattern))
			}
		}
		r := registrar.RetentionRule{Name: t.Name, OlderThan: age, Repositories: t.Repositories, Reason: t.Reason}
		if r.Name == "" {
			r.Name = fmt.Sprintf("rules[%d]", i)
		}
		if r.Reason == "" {
			r.Reason = "retention rule " + r.Name
		}
		for _, m := range t.MediaTypes {
			if m = strings.ToLower(strings.TrimSpace(m)); m == "" || strings.Contains(m, ";") {
				return nil, wrong("mediaTypes", fmt.Errorf("%q is not a media type without parameters", m))
			}
			r.MediaTypes = append(r.MediaTypes, m)
		}
		rules = append(rules, r)
	}
	return rules, nil
}

// parseAge reads a duration, also in days: 90d.
func parseAge(text string) (time.Duration, error) {
	age, err := time.ParseDuration(text)
	if days, isDays := strings.CutSuffix(text, "d"); isDays {
		var n int
		n, err = strconv.Atoi(days)
		age = time.Duration(n) * 24 * time.Hour
		if age/(24*time.Hour) != time.Duration(n) {
			err = errors.New("too long")
		}
	}
	if err != nil || age <= 0 {
		return 0, fmt.Errorf("%q is not an age such as 90d or 36h", text)
	}
	return age, nil
}
