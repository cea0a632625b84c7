-- The log, its index, and what is kept beside it: one file is one log.
-- Constraints repeat what the code promises, so that a bug cannot commit.
-- Times: registration and head times in seconds, others in milliseconds, both
-- since 1970 and in UTC; 0 is no time.

-- +goose Up

-- Signed heads, all kept. The insert is the compare-and-swap: no two heads
-- continue the same size.
CREATE TABLE heads (
    size         INTEGER PRIMARY KEY CHECK (size > prev_size),
    prev_size    INTEGER NOT NULL UNIQUE CHECK (prev_size >= 0),
    root         BLOB    NOT NULL CHECK (length(root) = 32),
    iat          INTEGER NOT NULL CHECK (iat > 0),
    policy_index INTEGER NOT NULL CHECK (policy_index >= 0 AND policy_index < size),
    protected    BLOB    NOT NULL,
    signature    BLOB    NOT NULL
) STRICT;

-- Long text once, found by its SHA-256.
CREATE TABLE issuers (
    id     INTEGER PRIMARY KEY,
    text   TEXT NOT NULL,
    sha256 BLOB NOT NULL UNIQUE CHECK (length(sha256) = 32)
) STRICT;
CREATE TABLE media_types (
    id     INTEGER PRIMARY KEY,
    text   TEXT NOT NULL,
    sha256 BLOB NOT NULL UNIQUE CHECK (length(sha256) = 32)
) STRICT;
CREATE TABLE predicate_types (
    id     INTEGER PRIMARY KEY,
    text   TEXT NOT NULL,
    sha256 BLOB NOT NULL UNIQUE CHECK (length(sha256) = 32)
) STRICT;

-- What queries walk over stays narrow. A type that the statement does not have
-- is the empty text. The evidence is '' or a digest.
CREATE TABLE entries (
    "index"           INTEGER PRIMARY KEY CHECK ("index" >= 0),
    entry_id          BLOB    NOT NULL UNIQUE CHECK (length(entry_id) = 32),
    issuer_id         INTEGER NOT NULL REFERENCES issuers (id),
    media_type_id     INTEGER NOT NULL REFERENCES media_types (id),
    predicate_type_id INTEGER NOT NULL REFERENCES predicate_types (id),
    evidence          TEXT    NOT NULL CHECK (length(evidence) <= 135),
    private           INTEGER NOT NULL CHECK (private IN (0, 1)),
    registered_at     INTEGER NOT NULL
) STRICT;
CREATE INDEX entries_issuer ON entries (issuer_id, "index");
CREATE INDEX entries_media_type ON entries (media_type_id, "index");
CREATE INDEX entries_issuer_media_type ON entries (issuer_id, media_type_id, "index");
CREATE INDEX entries_predicate_type ON entries (predicate_type_id, "index");
CREATE INDEX entries_evidence ON entries (evidence, "index") WHERE evidence <> '';
CREATE INDEX entries_registered_at ON entries (registered_at, "index");

-- The artifacts a statement speaks about.
CREATE TABLE entry_subjects (
    digest  TEXT    NOT NULL CHECK (length(digest) BETWEEN 71 AND 135),
    "index" INTEGER NOT NULL REFERENCES entries ("index"),
    PRIMARY KEY (digest, "index")
) STRICT, WITHOUT ROWID;
CREATE INDEX entry_subjects_entry ON entry_subjects ("index");

-- The signed bytes, apart. sub is SCITT's Subject.
CREATE TABLE statements (
    "index"   INTEGER PRIMARY KEY REFERENCES entries ("index"),
    sub       TEXT NOT NULL,
    canonical BLOB NOT NULL
) STRICT;

-- What authenticated statements besides their own bytes, once per content.
CREATE TABLE collateral (
    id     INTEGER PRIMARY KEY,
    kind   TEXT NOT NULL,
    sha256 BLOB NOT NULL CHECK (length(sha256) = 32),
    data   BLOB NOT NULL,
    UNIQUE (kind, sha256)
) STRICT;
CREATE TABLE entry_collateral (
    "index"       INTEGER NOT NULL REFERENCES entries ("index"),
    position      INTEGER NOT NULL CHECK (position >= 0),
    collateral_id INTEGER NOT NULL REFERENCES collateral (id),
    PRIMARY KEY ("index", position)
) STRICT, WITHOUT ROWID;

-- Why each entry was admitted, under which policy entry, and who brought it.
CREATE TABLE audit (
    "index"      INTEGER PRIMARY KEY REFERENCES entries ("index"),
    policy_index INTEGER NOT NULL REFERENCES entries ("index"),
    rule         TEXT    NOT NULL,
    identity     TEXT    NOT NULL,
    caller       TEXT    NOT NULL,
    registry     TEXT    NOT NULL,
    repository   TEXT    NOT NULL,
    at           INTEGER NOT NULL
) STRICT;

-- Full tiles, immutable. root is the hash of the tile one level up.
CREATE TABLE tiles (
    level INTEGER NOT NULL CHECK (level BETWEEN 0 AND 7),
    n     INTEGER NOT NULL CHECK (n >= 0),
    root  BLOB    NOT NULL CHECK (length(root) = 32),
    data  BLOB    NOT NULL CHECK (length(data) = 8192),
    PRIMARY KEY (level, n)
) STRICT;

-- queued -> done; queued -> queued, one try more; queued -> refused.
CREATE TABLE deliveries (
    id           INTEGER PRIMARY KEY,
    "index"      INTEGER NOT NULL REFERENCES entries ("index"),
    registry     TEXT    NOT NULL CHECK (registry <> ''),
    repository   TEXT    NOT NULL CHECK (repository <> ''),
    subject      TEXT    NOT NULL,
    artifact     TEXT    NOT NULL CHECK (artifact IN ('evidence', 'transparency')),
    state        TEXT    NOT NULL CHECK (state IN ('queued', 'done', 'refused')),
    tries        INTEGER NOT NULL CHECK (tries >= 0),
    next_at      INTEGER NOT NULL,
    last_error   TEXT    NOT NULL,
    manifest     TEXT    NOT NULL CHECK ((state = 'done') = (manifest <> '')),
    lease_owner  TEXT    NOT NULL DEFAULT '',
    leased_until INTEGER NOT NULL DEFAULT 0,
    UNIQUE ("index", registry, repository, subject, artifact),
    FOREIGN KEY (subject, "index") REFERENCES entry_subjects (digest, "index")
) STRICT;
CREATE INDEX deliveries_queued ON deliveries (registry, repository, subject, "index") WHERE state = 'queued';
CREATE INDEX deliveries_due ON deliveries (next_at) WHERE state = 'queued';
CREATE INDEX deliveries_evidence ON deliveries ("index") WHERE state = 'queued' AND artifact = 'evidence';

-- Evidence in transit. A row without digest is an upload in progress.
CREATE TABLE staged (
    id         INTEGER PRIMARY KEY,
    digest     TEXT UNIQUE,
    size       INTEGER NOT NULL CHECK (size >= 0),
    expires_at INTEGER NOT NULL,
    claimed    INTEGER NOT NULL DEFAULT 0 CHECK (claimed IN (0, 1))
) STRICT;
CREATE TABLE staged_chunks (
    staged_id INTEGER NOT NULL REFERENCES staged (id) ON DELETE CASCADE,
    position  INTEGER NOT NULL CHECK (position >= 0),
    data      BLOB    NOT NULL,
    PRIMARY KEY (staged_id, position)
) STRICT;

-- Callers' tokens; only hashes. scopes is a JSON array.
CREATE TABLE tokens (
    id         TEXT PRIMARY KEY CHECK (id <> ''),
    name       TEXT    NOT NULL,
    hash       BLOB    NOT NULL UNIQUE CHECK (length(hash) = 32),
    scopes     TEXT    NOT NULL CHECK (json_array_length(scopes) > 0),
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL CHECK (expires_at > 0),
    revoked_at INTEGER NOT NULL DEFAULT 0
) STRICT;
