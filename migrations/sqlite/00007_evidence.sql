-- +goose Up

-- How many bytes were placed, so that it can still be said when they are gone; 0
-- is not known.
ALTER TABLE deliveries ADD COLUMN size INTEGER NOT NULL DEFAULT 0 CHECK (size >= 0);

-- Evidence that is not where it was placed: missing is found gone, and is found
-- again or declared purged; purged is for good. One row is one place, as in
-- deliveries; the row without a place (registry, repository and subject are empty)
-- says that all of an entry's evidence was declared purged. removed: nothing of
-- it is left in the registry, as far as is known; asked counts how often it was
-- found there after all. statement is the entry that records the purge on the log.
CREATE TABLE evidence_marks (
    "index"    INTEGER NOT NULL REFERENCES entries ("index"),
    registry   TEXT    NOT NULL,
    repository TEXT    NOT NULL,
    subject    TEXT    NOT NULL,
    state      TEXT    NOT NULL CHECK (state IN ('missing', 'purged')),
    size       INTEGER NOT NULL CHECK (size >= 0),
    at         INTEGER NOT NULL,
    who        TEXT    NOT NULL,
    why        TEXT    NOT NULL,
    removed    INTEGER NOT NULL CHECK (removed IN (0, 1)),
    asked      INTEGER NOT NULL DEFAULT 0,
    statement  INTEGER REFERENCES entries ("index"),
    PRIMARY KEY ("index", registry, repository, subject),
    CHECK ((registry = '') = (repository = '') AND (registry = '') = (subject = '')),
    CHECK (removed OR state = 'purged' AND registry <> ''),
    CHECK (statement IS NULL OR state = 'purged')
) STRICT, WITHOUT ROWID;
CREATE INDEX evidence_marks_pending ON evidence_marks ("index", registry, repository, subject) WHERE NOT removed;
CREATE INDEX evidence_marks_unrecorded ON evidence_marks ("index") WHERE state = 'purged' AND statement IS NULL;

-- Which manifests an image index lists. A digest always lists the same, so rows
-- never change; they are only written once the digest was checked.
CREATE TABLE index_manifests (
    manifest    TEXT NOT NULL CHECK (length(manifest) BETWEEN 71 AND 135),
    image_index TEXT NOT NULL CHECK (length(image_index) BETWEEN 71 AND 135),
    PRIMARY KEY (manifest, image_index)
) STRICT, WITHOUT ROWID;
CREATE INDEX index_manifests_listed ON index_manifests (image_index, manifest);
