-- +goose Up

-- A third kind of artifact, the archived one, and a fourth state: what an operator
-- has dropped.
ALTER TABLE deliveries DROP CONSTRAINT deliveries_artifact_check;
ALTER TABLE deliveries ADD CONSTRAINT deliveries_artifact_check CHECK (artifact IN ('evidence', 'transparency', 'archive'));
ALTER TABLE deliveries DROP CONSTRAINT deliveries_state_check;
ALTER TABLE deliveries ADD CONSTRAINT deliveries_state_check CHECK (state IN ('queued', 'done', 'refused', 'dropped'));

-- What is due is taken for one registry at a time and in the order in which it
-- became due, so that neither a registry in trouble nor what has failed a
-- hundred times stands before what is new. Running leases are few, and looked
-- for by group.
DROP INDEX deliveries_due;
CREATE INDEX deliveries_due ON deliveries (registry, next_at, index) WHERE state = 'queued';
CREATE INDEX deliveries_leased ON deliveries (registry, repository, subject) WHERE state = 'queued' AND lease_owner IS NOT NULL;
CREATE INDEX deliveries_parked ON deliveries (registry, repository, subject, index, artifact) WHERE state IN ('refused', 'dropped');

-- What operators did to deliveries, who and why, and how each stood before:
-- written with the change, and never changed.
CREATE TABLE interventions (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at         timestamptz NOT NULL,
    who        text COLLATE "C" NOT NULL CHECK (who <> ''),
    why        text COLLATE "C" NOT NULL,
    action     text COLLATE "C" NOT NULL CHECK (action IN ('retry', 'park', 'drop')),
    index      bigint NOT NULL,
    registry   text COLLATE "C" NOT NULL,
    repository text COLLATE "C" NOT NULL,
    subject    bytea NOT NULL,
    artifact   text COLLATE "C" NOT NULL,
    state      text COLLATE "C" NOT NULL,
    tries      integer NOT NULL,
    last_error text COLLATE "C" NOT NULL
);
CREATE INDEX interventions_entry ON interventions (index);
