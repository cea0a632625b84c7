package interop

import "strings"

// on writes $REPO for the repository, $IMAGE for the pushed image by digest, and
// so on, into a command line.
func (v *visit) on(line string) string {
	return strings.NewReplacer(
		"$REPO", v.repo, "$HOST", v.site.host, "$IMAGE", v.imageDigest, "$INDEX", v.indexDigest, "$DIR", v.dir,
	).Replace(line)
}

// does is a step that runs command lines, after others have succeeded.
func does(operation, after string, lines ...string) step {
	return step{operation, func(v *visit) error {
		if after != "" {
			if err := v.after(after); err != nil {
				return err
			}
		}
		for _, line := range lines {
			line, want, _ := strings.Cut(line, " => ")
			if failing, ok := strings.CutPrefix(line, "! "); ok {
				if err := v.refused(v.on(failing)); err != nil {
					return err
				}
				continue
			}
			if dir, ok := strings.CutPrefix(line, "same "); ok {
				if err := v.pulled(dir); err != nil {
					return err
				}
				continue
			}
			if err := v.prints(v.on(line), v.on(want)); err != nil {
				return err
			}
		}
		return nil
	}}
}

// A line is a command; " => TEXT" behind it says what it has to print, "! " before
// it that it has to fail. "same DIR" compares what was pulled into DIR. Words are
// parted by blanks; & is a blank inside a word.

var crane = client{"crane 0.22.1", "crane", []step{
	does("push", "", "crane push image $REPO:v1", "crane push --index index $REPO:multi"),
	does("pull", "push", "crane pull --format oci $REPO:v1 out", "same out", "crane validate --remote $REPO:multi"),
	does("list", "push", "crane ls $REPO => v1", "crane ls $REPO => multi"),
	does("copy", "push", "crane copy $REPO:multi $REPO-copy:multi", "crane validate --remote $REPO-copy:multi"),
	does("delete", "push", "crane delete $REPO@$IMAGE", "! crane manifest $REPO@$IMAGE", "crane manifest $REPO:multi"),
}}

const regctlHost = " --host reg=$HOST,tls=disabled"

var regctl = client{"regctl 0.11.7", "regctl", []step{
	does("push", "", "regctl image copy ocidir://image:v1 $REPO:v1"+regctlHost, "regctl image copy ocidir://index:v1 $REPO:multi"+regctlHost),
	does("pull", "push", "regctl image copy $REPO:v1 ocidir://out:v1"+regctlHost, "same out", "regctl image digest $REPO:multi"+regctlHost+" => $INDEX"),
	does("attach", "push", "regctl artifact put --artifact-type "+sbomType+" --subject $REPO:v1 -f sbom.json -m "+sbomType+regctlHost,
		"regctl artifact put --artifact-type text/plain --subject $REPO:v1 -f sbom.json -m text/plain"+regctlHost),
	does("tree", "attach", "regctl artifact tree $REPO:v1"+regctlHost+" => "+sbomType,
		"regctl artifact get --subject $REPO:v1 --filter-artifact-type "+sbomType+regctlHost+" => "+sbom,
		"regctl artifact list $REPO:v1 --filter-artifact-type text/plain --format {{len&.Descriptors}}"+regctlHost+" => 1"),
	does("copy with referrers", "attach", "regctl image copy --referrers $REPO:v1 $REPO-copy:v1"+regctlHost,
		"regctl artifact get --subject $REPO-copy:v1 --filter-artifact-type "+sbomType+regctlHost+" => "+sbom),
	{"delete", func(v *visit) error {
		if err := v.after("attach"); err != nil {
			return err
		}
		out, err := v.run("regctl", words(v.on("artifact list $REPO:v1 --filter-artifact-type text/plain --format {{(index&.Descriptors&0).Digest}}"+regctlHost))...)
		if err != nil {
			return err
		}
		return does("", "", "regctl manifest delete --referrers $REPO@"+strings.TrimSpace(out)+regctlHost,
			"regctl artifact list $REPO:v1 --format {{len&.Descriptors}}"+regctlHost+" => 1",
			"regctl tag rm $REPO:multi"+regctlHost, "! regctl manifest head $REPO:multi"+regctlHost,
			"regctl manifest delete $REPO@$IMAGE"+regctlHost, "! regctl manifest head $REPO@$IMAGE"+regctlHost).do(v)
	}},
}}

const skopeoPlain = "skopeo --insecure-policy "

var skopeo = client{"skopeo 1.9.3", "skopeo", []step{
	does("push", "", skopeoPlain+"copy --dest-tls-verify=false oci:image:v1 docker://$REPO:v1", skopeoPlain+"copy --all --dest-tls-verify=false oci:index:v1 docker://$REPO:multi"),
	does("pull", "push", skopeoPlain+"copy --src-tls-verify=false docker://$REPO:v1 oci:out:v1", "same out"),
	does("list", "push", skopeoPlain+"list-tags --tls-verify=false docker://$REPO => multi", skopeoPlain+"inspect --tls-verify=false --format {{.Digest}} docker://$REPO:v1 => $IMAGE"),
	does("copy", "push", skopeoPlain+"copy --all --src-tls-verify=false --dest-tls-verify=false docker://$REPO:multi docker://$REPO-copy:multi",
		skopeoPlain+"inspect --tls-verify=false --raw docker://$REPO-copy:multi => manifests"),
	does("delete", "push", skopeoPlain+"delete --tls-verify=false docker://$REPO:v1", "! "+skopeoPlain+"inspect --tls-verify=false docker://$REPO:v1"),
}}

const (
	cosignSign   = " --yes --key cosign.key --tlog-upload=false --use-signing-config=false --allow-http-registry $REPO@$IMAGE"
	cosignByTag  = " --new-bundle-format=false"
	cosignVerify = " --key cosign.pub --insecure-ignore-tlog --allow-http-registry "
)

var cosign = client{"cosign 3.1.3", "cosign", []step{
	{"push", func(v *visit) error {
		if _, err := v.run("cosign", "generate-key-pair"); err != nil {
			return err
		}
		return pushImage(v)
	}},
	does("sign", "push", "cosign sign"+cosignSign),
	does("verify", "sign", "cosign verify"+cosignVerify+"$REPO@$IMAGE => $IMAGE"),
	does("attest", "push", "cosign attest --predicate sbom.json --type spdxjson"+cosignSign),
	does("verify attestation", "attest", "cosign verify-attestation --type spdxjson"+cosignVerify+"$REPO:v1 => payload"),
	does("tree", "sign", "cosign tree --allow-http-registry $REPO:v1 => sigstore"),
	{"verify a copy made by oras", func(v *visit) error {
		if err := v.after("sign"); err != nil {
			return err
		}
		if err := v.copied("-oras"); err != nil {
			return err
		}
		return does("", "", "cosign verify"+cosignVerify+"$REPO-oras@$IMAGE").do(v)
	}},
	does("sign and verify by tag, as cosign 2 did", "push", "cosign sign"+cosignByTag+cosignSign, "cosign verify"+cosignByTag+cosignVerify+"$REPO@$IMAGE"),
	// It copies tags, and puts the image itself where the tag schema keeps its
	// referrers.
	{"copy, then attach to the copy", func(v *visit) error {
		if err := v.after("sign and verify by tag, as cosign 2 did"); err != nil {
			return err
		}
		err := does("", "", "cosign copy --allow-http-registry $REPO:v1 $REPO-copy:v1", "cosign verify"+cosignByTag+cosignVerify+"$REPO-copy@$IMAGE").do(v)
		if err != nil {
			return err
		}
		repo, err := v.oras("-copy")
		if err != nil {
			return err
		}
		if err := attach(repo, sbomType, []byte(sbom)); err != nil {
			return err
		}
		return refer(repo, "v1", "", sbomType)
	}},
}}
