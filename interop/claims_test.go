package interop

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

const (
	receiptType   = "application/scitt-receipt+cose"
	statementType = "application/scitt-statement+cose"
)

// scitt registers a claim about the pushed image; what hangs on the image then is
// seen by the other clients.
var scitt = client{"scitt", "", []step{
	{"push", pushImage},
	{"attach", func(v *visit) error {
		if err := v.after("push"); err != nil {
			return err
		}
		out, err := v.run("scitt", "attach", v.repo+"@"+v.imageDigest, "--service", v.site.service, "--evidence", "sbom.json",
			"--hash-envelope", "always", "--key", v.site.path("publisher.pem"), "--issuer", publisher, "--token-file", v.site.path("token"), "--wait", "placed", "--format", "json")
		if err != nil {
			return err
		}
		var report struct {
			Data struct {
				Deliveries []struct{ Artifact, State, LastError string }
			}
		}
		if err := json.Unmarshal([]byte(out), &report); err != nil {
			return err
		}
		for _, d := range report.Data.Deliveries {
			if d.State != "done" {
				err = errors.Join(err, fmt.Errorf("%s is %s: %s", d.Artifact, d.State, d.LastError))
			}
		}
		if len(report.Data.Deliveries) != 2 {
			err = errors.Join(err, fmt.Errorf("%d placements, want evidence and receipt", len(report.Data.Deliveries)))
		}
		return err
	}},
	{"the receipt seen by oras", func(v *visit) error {
		if err := v.after("attach"); err != nil {
			return err
		}
		repo, err := v.oras("")
		if err != nil {
			return err
		}
		return errors.Join(refer(repo, "v1", receiptType, receiptType), refer(repo, "v1", "", sbomType, receiptType))
	}},
	{"verify", func(v *visit) error {
		if err := v.after("attach"); err != nil {
			return err
		}
		_, err := v.run("scitt", "verify", v.repo+"@"+v.imageDigest, "--service", v.site.service, "--issuer", publisher)
		return err
	}},
	{"the receipt copied by oras", func(v *visit) error {
		if err := v.after("attach"); err != nil {
			return err
		}
		if err := v.copied("-copy"); err != nil {
			return err
		}
		repo, err := v.oras("-copy")
		if err != nil {
			return err
		}
		return refer(repo, "v1", receiptType, receiptType)
	}},
	{"register by `oras attach`", func(v *visit) error {
		return v.pushed("-oras", func(claim []byte) error {
			repo, err := v.oras("-oras")
			if err != nil {
				return err
			}
			return attach(repo, statementType, claim)
		})
	}},
}}

// regctlRegisters does so with a program.
var regctlRegisters = client{"scitt and regctl", "regctl", []step{
	{"register by `regctl artifact put`", func(v *visit) error {
		return v.pushed("-regctl", func(claim []byte) error {
			return does("", "", "regctl artifact put --artifact-type "+statementType+" --subject $REPO-regctl:v1 -f claim.cose -m "+statementType+regctlHost).do(v)
		})
	}},
}}

// pushed signs a claim about the image, pushes it as a referrer, and waits until
// its receipt hangs beside it.
func (v *visit) pushed(suffix string, push func(claim []byte) error) error {
	if err := v.push(suffix); err != nil {
		return err
	}
	_, err := v.run("scitt", "sign", v.repo+suffix+"@"+v.imageDigest, "--evidence", "sbom.json", "--key", v.site.path("publisher.pem"), "--issuer", publisher, "-o", "claim.cose")
	if err != nil {
		return err
	}
	claim, err := os.ReadFile(filepath.Join(v.dir, "claim.cose"))
	if err != nil {
		return err
	}
	if err := push(claim); err != nil {
		return err
	}
	repo, err := v.oras(suffix)
	if err != nil {
		return err
	}
	// The statement, its evidence and its receipt; of whatever type they are listed.
	listed := 0
	for begin := time.Now(); listed < 3 && err == nil; time.Sleep(50 * time.Millisecond) {
		if time.Since(begin) > patience {
			return fmt.Errorf("%d referrers after %s, want 3", listed, patience)
		}
		var types []string
		types, err = referrers(repo, "v1", "")
		listed = len(types)
	}
	return errors.Join(err, refer(repo, "v1", receiptType, receiptType))
}
