-- +goose Up

-- The image that a statement came for, where its signed bytes name none: it says
-- where the claim is placed and nothing else. So a delivery's subject need not
-- be an artifact of its entry any more, and the table is made anew without that
-- constraint.
ALTER TABLE audit ADD COLUMN image TEXT NOT NULL DEFAULT '' CHECK (length(image) <= 135);
CREATE INDEX audit_image ON audit (image, "index") WHERE image <> '';

CREATE TABLE deliveries_new (
    id           INTEGER PRIMARY KEY,
    "index"      INTEGER NOT NULL REFERENCES entries ("index"),
    registry     TEXT    NOT NULL CHECK (registry <> ''),
    repository   TEXT    NOT NULL CHECK (repository <> ''),
    subject      TEXT    NOT NULL CHECK (length(subject) BETWEEN 71 AND 135),
    artifact     TEXT    NOT NULL CHECK (artifact IN ('evidence', 'transparency')),
    state        TEXT    NOT NULL CHECK (state IN ('queued', 'done', 'refused')),
    tries        INTEGER NOT NULL CHECK (tries >= 0),
    next_at      INTEGER NOT NULL,
    last_error   TEXT    NOT NULL,
    manifest     TEXT    NOT NULL CHECK ((state = 'done') = (manifest <> '')),
    lease_owner  TEXT    NOT NULL DEFAULT '',
    leased_until INTEGER NOT NULL DEFAULT 0,
    UNIQUE ("index", registry, repository, subject, artifact)
) STRICT;
INSERT INTO deliveries_new SELECT * FROM deliveries;
DROP TABLE deliveries;
ALTER TABLE deliveries_new RENAME TO deliveries;
CREATE INDEX deliveries_queued ON deliveries (registry, repository, subject, "index") WHERE state = 'queued';
CREATE INDEX deliveries_due ON deliveries (next_at) WHERE state = 'queued';
CREATE INDEX deliveries_evidence ON deliveries ("index") WHERE state = 'queued' AND artifact = 'evidence';

-- The claims of one repository, newest first.
CREATE INDEX deliveries_repository ON deliveries (repository, "index") WHERE artifact = 'transparency';

-- Statements that clients pushed and that were not registered: the newest word
-- on each manifest, until it is registered after all. issuer is what the
-- statement says of its signer, unverified.
CREATE TABLE push_refusals (
    id         INTEGER PRIMARY KEY,
    repository TEXT    NOT NULL CHECK (repository <> ''),
    manifest   TEXT    NOT NULL CHECK (length(manifest) BETWEEN 71 AND 135),
    image      TEXT    NOT NULL CHECK (length(image) <= 135),
    entry_id   BLOB    NOT NULL CHECK (length(entry_id) = 32),
    issuer     TEXT    NOT NULL,
    code       TEXT    NOT NULL CHECK (code <> ''),
    rule       TEXT    NOT NULL,
    reason     TEXT    NOT NULL,
    hint       TEXT    NOT NULL,
    policy     BLOB    NOT NULL CHECK (length(policy) = 32),
    caller     TEXT    NOT NULL,
    at         INTEGER NOT NULL,
    UNIQUE (repository, manifest)
) STRICT;
