// Package apitype holds the JSON shapes of /v1 that server and client share.
// Shapes only grow: a field once served keeps its name and meaning. It knows
// neither HTTP nor any other room.
package apitype

import (
	"encoding/json"
	"time"
)

// Entry is one registered statement as /v1 shows it.
type Entry struct {
	EntryID       string    `json:"id"` // 64 lower-case hex digits
	Index         uint64    `json:"leafIndex"`
	RegisteredAt  time.Time `json:"registeredAt"`
	Issuer        string    `json:"issuer"`
	Subject       string    `json:"sub"`      // SCITT's Subject
	Artifacts     []string  `json:"subjects"` // digests of what the statement speaks about
	MediaType     string    `json:"mediaType,omitempty"`
	PredicateType string    `json:"predicateType,omitempty"`
	Evidence      Evidence  `json:"evidence,omitzero"`
	Visibility    string    `json:"visibility"` // public | private
	Policy        Judgement `json:"policy"`
	Identity      Identity  `json:"identity"`
	Links         Links     `json:"links"`

	// Of one entry alone, not in lists: what was used beside the statement to decide.
	Collateral []CollateralRef `json:"collateral,omitempty"`

	// Of a claim that is not about what was asked for itself: the image index that
	// it is about, which lists that; or the manifest, which that lists.
	Via      string `json:"via,omitempty"`
	Instance string `json:"instance,omitempty"`
}

// Evidence names the bytes that a statement speaks for, and says where they are.
type Evidence struct {
	Digest string `json:"digest"`
	State  string `json:"state,omitempty"` // none | staged | placed | missing | purged

	// Of what is missing or purged.
	Size         int64      `json:"size,omitempty"` // in bytes; 0: not known
	PurgedAt     *time.Time `json:"purgedAt,omitempty"`
	MissingSince *time.Time `json:"missingSince,omitempty"`
	Reason       string     `json:"reason,omitempty"`
	By           string     `json:"by,omitempty"`        // for callers who may see everything
	Statement    string     `json:"statement,omitempty"` // entry that records the purge on the log
}

// Purge is the body of POST /v1/entries/{id}/evidence:purge.
type Purge struct {
	Reason string `json:"reason,omitempty"`
}

// Staged answers the upload of evidence.
type Staged struct {
	Digest string `json:"digest"`
	Size   int64  `json:"size"` // in bytes; evidence may be empty
}

// Judgement says why an entry was admitted: the policy's entry and its rule.
type Judgement struct {
	Entry string `json:"entry"`
	Rule  string `json:"rule"`
}

// Judged is what a registration would decide: POST /v1/entries:validate.
type Judged struct {
	Decision    string   `json:"decision"` // allow | deny
	Rule        string   `json:"rule"`     // what decided
	Reason      string   `json:"reason,omitempty"`
	Code        string   `json:"code,omitempty"` // of the problem that a registration would answer
	Hint        string   `json:"hint,omitempty"`
	PolicyEntry string   `json:"policyEntry"`
	EntryID     string   `json:"entryId"`
	Artifacts   []string `json:"subjects"`
	Visibility  string   `json:"visibility,omitempty"` // public | private; with allow

	// Who signed the evidence, where the policy asks for that and found them.
	EvidenceSigner *Identity `json:"evidenceSigner,omitempty"`
}

// PushRefusal is a statement that a client pushed to the registry, where it is
// stored, and that was not registered.
type PushRefusal struct {
	Repository  string    `json:"repository"`
	Manifest    string    `json:"manifest"`
	Image       string    `json:"subject"` // OCI's: what the manifest refers to
	EntryID     string    `json:"entryId,omitempty"`
	Issuer      string    `json:"issuer,omitempty"` // as the statement says, unverified
	Code        string    `json:"code"`
	Rule        string    `json:"rule,omitempty"`
	Reason      string    `json:"reason"`
	Hint        string    `json:"hint,omitempty"`
	PolicyEntry string    `json:"policyEntry,omitempty"`
	At          time.Time `json:"at"`
}

// PushRefusals are the newest ones: GET /v1/refusals.
type PushRefusals struct {
	Refusals []PushRefusal `json:"items"`
}

// Requirement is one claim that an artifact has to have: of a media type or
// predicate type (neither: any claim), by any or all of the issuers (none: by
// anybody).
type Requirement struct {
	MediaType     string   `json:"mediaType,omitempty"`
	PredicateType string   `json:"predicateType,omitempty"`
	Issuers       []string `json:"issuers,omitempty"`
	Match         string   `json:"match,omitempty"` // any (default) | all
}

// Check asks whether an artifact has the claims that are required: POST /v1/check.
type Check struct {
	Subject string        `json:"subject"` // digest
	Require []Requirement `json:"require"`
}

// Checked answers a Check, one result for each requirement, in order.
type Checked struct {
	Satisfied      bool        `json:"satisfied"` // all of them
	Subject        string      `json:"subject"`
	Results        []Satisfied `json:"results"`
	Checkpoint     string      `json:"checkpoint"` // signed note; "" where none can be made
	IndexedThrough uint64      `json:"indexedThrough"`
}

// Satisfied is how one requirement stands.
type Satisfied struct {
	Satisfied    bool     `json:"satisfied"`
	Entries      []string `json:"entries"`                // that count, newest first, at most 100
	Missing      []string `json:"missing,omitempty"`      // issuers that have no such claim
	OtherIssuers []string `json:"otherIssuers,omitempty"` // that have one, and were not asked for

	// Via has the image index that an entry is about, by entry, where that lists the
	// artifact.
	Via map[string]string `json:"via,omitempty"`
}

// Identity is the signer as the eNotary resolved it.
type Identity struct {
	Kind       string `json:"kind"`           // key | x509 | did | keys | oidc | operator
	Issuer     string `json:"issuer"`         // that it speaks for
	Thumbprint string `json:"thumbprint"`     // lower-case hex
	Name       string `json:"name,omitempty"` // what the key was found under: a name of the certificate, a DID URL
}

// Links are paths on this service.
type Links struct {
	Self        string `json:"self"`
	Statement   string `json:"statement"`
	Receipt     string `json:"receipt"`
	Transparent string `json:"transparent"`
	Deliveries  string `json:"deliveries"`
	Collateral  string `json:"collateral"`
}

// EntryList is one page, newest first.
type EntryList struct {
	Entries []Entry `json:"items"`
	// IndexedThrough is the tree size that the answer covers at least: all
	// entries below it were looked at.
	IndexedThrough uint64 `json:"indexedThrough"`
	Next           string `json:"next,omitempty"`  // cursor of the next page, "" on the last
	Found          *Found `json:"found,omitempty"` // on an empty answer about subjects
}

// Found is what does exist for the subjects of a query that found nothing.
type Found struct {
	Issuers    []string `json:"issuers"`
	MediaTypes []string `json:"mediaTypes"`
}

// Batch is the answer to POST /v1/entries:batch where JSON is asked for: one
// item for each of the request, in order. When the request itself broke off,
// the last one says why, and nothing behind it was looked at.
type Batch struct {
	Items []BatchItem `json:"items"`
}

// BatchItem is what became of one statement of a batch.
type BatchItem struct {
	N       int      `json:"n"`                   // its place in the request, from 0
	Status  int      `json:"status"`              // 201, 202, or that of Problem
	EntryID string   `json:"id,omitempty"`        // with 201 and 202
	Index   *uint64  `json:"leafIndex,omitempty"` // with 201
	Problem *Problem `json:"problem,omitempty"`
}

// Delivery is one thing to place in a registry.
type Delivery struct {
	Registry   string     `json:"registry"`
	Repository string     `json:"repository"`
	Subject    string     `json:"subject"`
	Artifact   string     `json:"artifact"` // evidence | transparency
	State      string     `json:"state"`    // queued | done | refused
	Tries      int        `json:"tries"`
	NextAt     *time.Time `json:"nextAt,omitempty"`
	LastError  string     `json:"lastError,omitempty"`
	Manifest   string     `json:"manifest,omitempty"`
}

// Deliveries of one entry.
type Deliveries struct {
	Deliveries []Delivery `json:"deliveries"`
}

// Collateral is what authenticated a statement besides its own bytes. The data of
// an x5chain is a CBOR array of DER certificates, leaf first; that of did and keys a
// CBOR array of the URL they came from and the bytes; that of payload and evidence
// is a digest, in text.
type Collateral struct {
	Kind string `json:"kind"` // x5chain | did | keys | payload | evidence
	Data []byte `json:"data"` // base64

	Source string `json:"source,omitempty"` // URL or digest, where the data says one
}

// CollateralRef names one piece of it.
type CollateralRef struct {
	Kind   string `json:"kind"`
	SHA256 string `json:"sha256"` // of its data, 64 lower-case hex digits
	Size   int    `json:"size"`   // of its data, in bytes
}

// CollateralList is all collateral of one entry.
type CollateralList struct {
	Collateral []Collateral `json:"collateral"`
}

// Service describes the service: GET /v1/service.
type Service struct {
	URL         string `json:"url"`
	Origin      string `json:"origin"`
	LeafRule    string `json:"leafRule"`
	Registry    string `json:"registry,omitempty"`
	TreeSize    uint64 `json:"treeSize"`
	PolicyEntry string `json:"policyEntry"`
	Limits      Limits `json:"limits"`

	CheckpointKeys []string `json:"checkpointKeys"` // C2SP verifier keys, current first

	Cosigned *Cosigned `json:"cosigned,omitempty"` // nil: no witnesses are configured
}

// Cosigned is how the witnesses of the log's checkpoints stand, as far as the
// answering process knows.
type Cosigned struct {
	Size      uint64    `json:"size"` // of the newest checkpoint that has its quorum; 0: none has
	Witnesses []Witness `json:"witnesses"`
}

// Witness is one of them.
type Witness struct {
	Name  string    `json:"name"`
	State string    `json:"state"` // unknown | cosigns | failing | ahead | forked
	Size  uint64    `json:"size"`  // that it cosigned last
	Since time.Time `json:"since"` // of State
}

// Limits that clients may run into, in bytes or counts.
type Limits struct {
	Statement int64 `json:"statement"`
	Evidence  int64 `json:"evidence"`
	PageSize  int   `json:"pageSize"`
	Artifacts int   `json:"artifacts"`

	BatchItems int   `json:"batchItems"` // statements of one batch
	BatchSize  int64 `json:"batchSize"`  // bytes of one batch
}

// Policy is a registration policy and its place in the log: GET /v1/policy, the
// one in force, ?entry= that of an entry, ?at= the one that judges the entry at an
// index.
type Policy struct {
	Entry     string          `json:"entry"`
	Index     uint64          `json:"index"` // of its entry: what lies behind it is judged by it
	State     string          `json:"state"` // in-force | replaced | proposed | lapsed
	From      *time.Time      `json:"from,omitempty"`
	Until     *time.Time      `json:"until,omitempty"` // when next came into force
	Next      string          `json:"next,omitempty"`  // entry of the policy that is in force since
	Signers   []PolicySigner  `json:"signers"`         // operators who signed this very document, in log order
	Threshold int             `json:"threshold"`       // operators who have to, by the policy that it replaces
	Policy    json.RawMessage `json:"policy"`          // the document

	// Of the one in force: what operators have signed to replace it, and others have
	// yet to.
	Proposed []Policy `json:"proposed,omitempty"`

	Links PolicyLinks `json:"links"`
}

// PolicySigner is an operator's statement under a policy.
type PolicySigner struct {
	Entry      string    `json:"entry"`
	Index      uint64    `json:"index"`
	Rule       string    `json:"rule"` // of the policy before: operators[0]
	Thumbprint string    `json:"thumbprint"`
	At         time.Time `json:"at"`
}

// PolicyLinks are paths on this service.
type PolicyLinks struct {
	Self      string `json:"self"`
	Statement string `json:"statement"`          // the signed bytes
	Previous  string `json:"previous,omitempty"` // the policy that it replaces
}

// RefusalCount is how often one rule refused statements of one issuer. Reason and
// Hint are what the last one was told.
type RefusalCount struct {
	Code        string    `json:"code"`
	Rule        string    `json:"rule,omitempty"`
	PolicyEntry string    `json:"policyEntry,omitempty"`
	Issuer      string    `json:"issuer,omitempty"` // as the statements say, unverified
	Count       uint64    `json:"count"`
	First       time.Time `json:"first"`
	Last        time.Time `json:"last"`
	Reason      string    `json:"reason"`
	Hint        string    `json:"hint,omitempty"`
}

// RefusalCounts are the most frequent first: GET /v1/policy/refusals.
type RefusalCounts struct {
	Refusals []RefusalCount `json:"items"`
}

// Head is a signed tree head. Signature is that of every receipt under it:
// COSE, over Protected and Root.
type Head struct {
	Size      uint64 `json:"size"`
	PrevSize  uint64 `json:"prevSize"`
	Root      []byte `json:"root"`        // base64, as are the following two
	Protected []byte `json:"protected"`   // content of the protected byte string
	Signature []byte `json:"signature"`   //
	IssuedAt  int64  `json:"iat"`         // seconds since 1970
	Policy    uint64 `json:"policyIndex"` // leaf index of the policy in force after it
}

// HeadList is one page of GET /log/heads, smallest first.
type HeadList struct {
	Heads []Head `json:"heads"`
	Next  uint64 `json:"next,omitempty"` // after of the next page, 0 on the last
}

// Consistency proves that one tree begins with another: GET /log/consistency.
type Consistency struct {
	From     uint64   `json:"from"`
	To       uint64   `json:"to"`
	FromRoot []byte   `json:"fromRoot"` // base64, as are all hashes
	ToRoot   []byte   `json:"toRoot"`
	Hashes   [][]byte `json:"hashes"` // RFC 9162 §2.1.4.1
}

// Problem is RFC 9457 problem+json with our additions. Clients match Code.
type Problem struct {
	Type        string          `json:"type"`
	Title       string          `json:"title"`
	Status      int             `json:"status"`
	Detail      string          `json:"detail"`
	Code        string          `json:"code"`
	Hint        string          `json:"hint,omitempty"`
	TraceID     string          `json:"traceId,omitempty"`
	EntryID     string          `json:"entryId,omitempty"`
	Rule        string          `json:"rule,omitempty"`
	PolicyEntry string          `json:"policyEntry,omitempty"`
	Errors      []RegistryError `json:"errors,omitempty"` // below /v2 only

	// Of evidence that is gone: what is still known, and Links to what still proves
	// it.
	Digest       string     `json:"digest,omitempty"`
	Size         int64      `json:"size,omitempty"`
	MediaType    string     `json:"mediaType,omitempty"`
	PurgedAt     *time.Time `json:"purgedAt,omitempty"`
	MissingSince *time.Time `json:"missingSince,omitempty"`
	Statement    string     `json:"statement,omitempty"`
	Links        *Links     `json:"links,omitempty"`
}

// RegistryError is an error as OCI registry clients read it.
type RegistryError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Detail  string `json:"detail"`
}
