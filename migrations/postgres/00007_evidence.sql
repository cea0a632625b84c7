-- +goose Up

-- How many bytes were placed, so that it can still be said when they are gone; 0
-- is not known.
ALTER TABLE deliveries ADD COLUMN size bigint NOT NULL DEFAULT 0 CHECK (size >= 0);

-- Evidence that is not where it was placed:
--
--              found gone               declared
--   (no row) ──────────────> missing ────────────> purged
--      ^  │                   │                      ^
--      │  │   found again     │                      │
--      └──┼───────────────────┘                      │
--         └──────────────────────────────────────────┘
--                 declared, or deleted through us
--
-- One row is one place, as in deliveries; the row without a place (registry, repository
-- and subject are empty) says that all of an entry's evidence was declared
-- purged. removed: nothing of it is left in the registry, as far as is known;
-- asked counts how often it was found there after all. statement is the entry that
-- records the purge on the log.
CREATE TABLE evidence_marks (
    index      bigint NOT NULL,
    registry   text COLLATE "C" NOT NULL,
    repository text COLLATE "C" NOT NULL,
    subject    bytea NOT NULL CHECK (octet_length(subject) IN (0, 32, 48, 64)),
    state      text COLLATE "C" NOT NULL CHECK (state IN ('missing', 'purged')),
    size       bigint NOT NULL CHECK (size >= 0),
    at         timestamptz NOT NULL,
    who        text COLLATE "C" NOT NULL,
    why        text COLLATE "C" NOT NULL,
    removed    boolean NOT NULL,
    asked      integer NOT NULL DEFAULT 0,
    statement  bigint,
    PRIMARY KEY (index, registry, repository, subject),
    CHECK ((registry = '') = (repository = '') AND (registry = '') = (octet_length(subject) = 0)),
    CHECK (removed OR state = 'purged' AND registry <> ''),
    CHECK (statement IS NULL OR state = 'purged')
);
CREATE INDEX evidence_marks_pending ON evidence_marks (index, registry, repository, subject) WHERE NOT removed;
CREATE INDEX evidence_marks_unrecorded ON evidence_marks (index) WHERE state = 'purged' AND statement IS NULL;

-- Which manifests an image index lists. A digest always lists the same, so rows
-- never change; they are only written once the digest was checked.
CREATE TABLE index_manifests (
    manifest    bytea NOT NULL CHECK (octet_length(manifest) IN (32, 48, 64)),
    image_index bytea NOT NULL CHECK (octet_length(image_index) IN (32, 48, 64)),
    PRIMARY KEY (manifest, image_index)
);
CREATE INDEX index_manifests_listed ON index_manifests (image_index, manifest);
