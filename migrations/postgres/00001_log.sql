-- +goose Up

-- One schema is one log. Rows are appended and never changed, with three
-- exceptions: deliveries (a queue), staged evidence (in transit) and tokens.
-- The same names stand in migrations/sqlite. Lines that end in "-- tuning" are
-- for PostgreSQL itself; the portable profile goes without.
--
-- Narrow and wide rows are kept apart: everything a lookup filters by is in
-- entries and entry_subjects, which stay in memory; statement bytes are not.
-- There are no foreign keys into entries: all rows of an entry are written in
-- one transaction, and each check would cost as much as the insert.

-- Dictionaries: texts that repeat, looked up by hash because an issuer may be
-- longer than a btree row.
CREATE TABLE issuers (
    id     integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    sha256 bytea NOT NULL UNIQUE CHECK (octet_length(sha256) = 32),
    text   text COLLATE "C" NOT NULL CHECK (octet_length(text) BETWEEN 1 AND 32768)
);

CREATE TABLE media_types (
    id     integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    sha256 bytea NOT NULL UNIQUE CHECK (octet_length(sha256) = 32),
    text   text COLLATE "C" NOT NULL CHECK (octet_length(text) BETWEEN 1 AND 1024)
);

CREATE TABLE predicate_types (
    id     integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    sha256 bytea NOT NULL UNIQUE CHECK (octet_length(sha256) = 32),
    text   text COLLATE "C" NOT NULL CHECK (octet_length(text) BETWEEN 1 AND 32768)
);

-- The tree's leaves and what lookups filter by. registered_at is the iat of
-- the entry's head, so it never decreases with index.
CREATE TABLE entries (
    index             bigint PRIMARY KEY CHECK (index >= 0),
    registered_at     timestamptz NOT NULL,
    issuer_id         integer NOT NULL,
    media_type_id     integer,
    predicate_type_id integer,
    private           boolean NOT NULL,
    entry_id          bytea NOT NULL UNIQUE CHECK (octet_length(entry_id) = 32),
    evidence          bytea CHECK (octet_length(evidence) IN (32, 48, 64))
);
CREATE INDEX entries_issuer ON entries (issuer_id, index);
CREATE INDEX entries_media_type ON entries (media_type_id, index);
CREATE INDEX entries_predicate_type ON entries (predicate_type_id, index);
CREATE INDEX entries_issuer_media_type ON entries (issuer_id, media_type_id, index);
CREATE INDEX entries_evidence ON entries (evidence, index);

-- The artifacts a statement speaks about; the length tells the algorithm.
CREATE TABLE entry_subjects (
    digest bytea NOT NULL CHECK (octet_length(digest) IN (32, 48, 64)),
    index  bigint NOT NULL,
    PRIMARY KEY (digest, index)
);
CREATE INDEX entry_subjects_entry ON entry_subjects (index);

-- Canonical bytes. Signatures and hashes do not compress, and pushing 2 KB
-- rows out to TOAST costs more than the insert: keep them inline while they
-- fit a page, uncompressed when they do not.
CREATE TABLE statements (
    index     bigint PRIMARY KEY,
    sub       text COLLATE "C" NOT NULL,
    canonical bytea NOT NULL
);
ALTER TABLE statements ALTER COLUMN canonical SET STORAGE EXTERNAL; -- tuning
ALTER TABLE statements SET (toast_tuple_target = 8160); -- tuning

-- Full tiles only: 256 hashes, and the root over them.
CREATE TABLE tiles (
    level smallint NOT NULL CHECK (level >= 0),
    n     bigint NOT NULL CHECK (n >= 0),
    root  bytea NOT NULL CHECK (octet_length(root) = 32),
    data  bytea NOT NULL CHECK (octet_length(data) = 8192),
    PRIMARY KEY (level, n)
);
ALTER TABLE tiles ALTER COLUMN data SET STORAGE EXTERNAL; -- tuning

-- Every signed head. Inserting one is the compare-and-swap of a commit: each
-- size is followed by at most one other (prev_size is unique), only a size that
-- exists can be followed (its time is then prev_iat; the first head follows
-- nothing), and time never goes back. All of it raises in the server, because
-- a commit is one round trip: the client would learn too late.
CREATE TABLE heads (
    size         bigint PRIMARY KEY,
    prev_size    bigint NOT NULL UNIQUE,
    prev_iat     timestamptz,
    iat          timestamptz NOT NULL,
    policy_index bigint NOT NULL,
    root         bytea NOT NULL CHECK (octet_length(root) = 32),
    protected    bytea NOT NULL,
    signature    bytea NOT NULL,
    CONSTRAINT heads_grow CHECK (prev_size >= 0 AND size > prev_size),
    CONSTRAINT heads_follow CHECK ((prev_iat IS NULL) = (prev_size = 0)),
    CONSTRAINT heads_time CHECK (iat >= prev_iat),
    CONSTRAINT heads_policy CHECK (policy_index >= 0 AND policy_index < size)
);
-- Registration time to index range, for lookups by time.
CREATE INDEX heads_iat ON heads (iat, size);

-- What authenticated a statement besides its own bytes, stored once.
CREATE TABLE collateral (
    sha256 bytea PRIMARY KEY CHECK (octet_length(sha256) = 32),
    data   bytea NOT NULL
);
CREATE TABLE entry_collateral (
    index    bigint NOT NULL,
    position smallint NOT NULL CHECK (position >= 0),
    kind     text COLLATE "C" NOT NULL,
    sha256   bytea NOT NULL,
    PRIMARY KEY (index, position)
);

-- Who decided what, and why: written with the entry. Caller, registry and
-- repository are kept for whoever asks later; they are no part of the decision.
CREATE TABLE audit (
    index               bigint PRIMARY KEY,
    policy_index        bigint NOT NULL,
    rule                text COLLATE "C" NOT NULL,
    identity_kind       text COLLATE "C" NOT NULL,
    identity_issuer     text COLLATE "C" NOT NULL,
    identity_thumbprint text COLLATE "C" NOT NULL,
    caller              text COLLATE "C" NOT NULL,
    registry            text COLLATE "C" NOT NULL,
    repository          text COLLATE "C" NOT NULL,
    at                  timestamptz NOT NULL DEFAULT now()
);

-- Things to place in a registry:
--
--            placed
--   queued ─────────> done
--    │  ^ │  for good
--    └──┘ └─────────> refused
--   later (tries+1)
--
-- A lease covers whole (registry, repository, subject) groups; leased rows are
-- looked for by group, due ones oldest entry first.
CREATE TABLE deliveries (
    index        bigint NOT NULL,
    registry     text COLLATE "C" NOT NULL CHECK (registry <> ''),
    repository   text COLLATE "C" NOT NULL CHECK (repository <> ''),
    subject      bytea NOT NULL CHECK (octet_length(subject) IN (32, 48, 64)),
    artifact     text COLLATE "C" NOT NULL CHECK (artifact IN ('evidence', 'transparency')),
    state        text COLLATE "C" NOT NULL CHECK (state IN ('queued', 'done', 'refused')),
    tries        integer NOT NULL CHECK (tries >= 0),
    next_at      timestamptz NOT NULL,
    last_error   text COLLATE "C" NOT NULL,
    manifest     bytea CHECK (octet_length(manifest) IN (32, 48, 64)),
    lease_owner  text COLLATE "C",
    leased_until timestamptz,
    UNIQUE (index, registry, repository, subject, artifact),
    CHECK ((state = 'done') = (manifest IS NOT NULL)),
    CHECK ((lease_owner IS NULL) = (leased_until IS NULL)),
    CHECK (lease_owner IS NULL OR state = 'queued')
);
CREATE INDEX deliveries_due ON deliveries (index, next_at) WHERE state = 'queued';
CREATE INDEX deliveries_queued ON deliveries (registry, repository, subject, index, artifact) WHERE state = 'queued';

-- Evidence in transit. A piece is written chunk by chunk and has no digest
-- before it is complete. claimed says that an entry committed since it was
-- staged places it, so that it may go once no queued delivery needs it.
CREATE TABLE staged (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    digest     bytea UNIQUE CHECK (octet_length(digest) IN (32, 48, 64)),
    size       bigint NOT NULL CHECK (size >= 0),
    claimed    boolean NOT NULL,
    expires_at timestamptz NOT NULL
);
CREATE TABLE staged_chunks (
    staged_id bigint NOT NULL REFERENCES staged (id) ON DELETE CASCADE,
    position  integer NOT NULL CHECK (position >= 0),
    data      bytea NOT NULL CHECK (octet_length(data) BETWEEN 1 AND 1048576),
    PRIMARY KEY (staged_id, position)
);
ALTER TABLE staged_chunks ALTER COLUMN data SET STORAGE EXTERNAL; -- tuning

-- Callers' bearer tokens; only the hash is kept.
CREATE TABLE tokens (
    id         text COLLATE "C" PRIMARY KEY,
    name       text COLLATE "C" NOT NULL,
    hash       bytea NOT NULL UNIQUE CHECK (octet_length(hash) = 32),
    scopes     text[] COLLATE "C" NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    revoked_at timestamptz
);
