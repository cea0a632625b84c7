-- +goose Up

-- A third kind of artifact, the archived one, and a fourth state: what an operator
-- has dropped. Constraints cannot be changed, so the table is made anew.
CREATE TABLE deliveries_new (
    id           INTEGER PRIMARY KEY,
    "index"      INTEGER NOT NULL REFERENCES entries ("index"),
    registry     TEXT    NOT NULL CHECK (registry <> ''),
    repository   TEXT    NOT NULL CHECK (repository <> ''),
    subject      TEXT    NOT NULL CHECK (length(subject) BETWEEN 71 AND 135),
    artifact     TEXT    NOT NULL CHECK (artifact IN ('evidence', 'transparency', 'archive')),
    state        TEXT    NOT NULL CHECK (state IN ('queued', 'done', 'refused', 'dropped')),
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
CREATE INDEX deliveries_evidence ON deliveries ("index") WHERE state = 'queued' AND artifact = 'evidence';
CREATE INDEX deliveries_repository ON deliveries (repository, "index") WHERE artifact = 'transparency';

-- What is due is taken for one registry at a time and in the order in which it
-- became due, so that neither a registry in trouble nor what has failed a
-- hundred times stands before what is new. Running leases are few, and looked
-- for by group.
CREATE INDEX deliveries_due ON deliveries (registry, next_at, "index") WHERE state = 'queued';
CREATE INDEX deliveries_queued ON deliveries (registry, repository, subject, "index", artifact) WHERE state = 'queued';
CREATE INDEX deliveries_leased ON deliveries (registry, repository, subject) WHERE state = 'queued' AND lease_owner <> '';
CREATE INDEX deliveries_parked ON deliveries (registry, repository, subject, "index", artifact) WHERE state IN ('refused', 'dropped');

-- What operators did to deliveries, who and why, and how each stood before:
-- written with the change, and never changed.
CREATE TABLE interventions (
    id         INTEGER PRIMARY KEY,
    at         INTEGER NOT NULL,
    who        TEXT    NOT NULL CHECK (who <> ''),
    why        TEXT    NOT NULL,
    action     TEXT    NOT NULL CHECK (action IN ('retry', 'park', 'drop')),
    "index"    INTEGER NOT NULL REFERENCES entries ("index"),
    registry   TEXT    NOT NULL,
    repository TEXT    NOT NULL,
    subject    TEXT    NOT NULL,
    artifact   TEXT    NOT NULL,
    state      TEXT    NOT NULL,
    tries      INTEGER NOT NULL,
    last_error TEXT    NOT NULL
) STRICT;
CREATE INDEX interventions_entry ON interventions ("index");
