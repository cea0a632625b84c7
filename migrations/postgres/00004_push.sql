-- +goose Up

-- The image that a statement came for, where its signed bytes name none: it says
-- where the claim is placed and nothing else.
ALTER TABLE audit ADD COLUMN image bytea CHECK (octet_length(image) IN (32, 48, 64));
CREATE INDEX audit_image ON audit (substr(image, 1, 7), index) WHERE image IS NOT NULL;

-- The claims of one repository, newest first.
CREATE INDEX deliveries_repository ON deliveries (repository, index) WHERE artifact = 'transparency';

-- Statements that clients pushed and that were not registered: the newest word
-- on each manifest, until it is registered after all. issuer is what the
-- statement says of its signer, unverified.
CREATE TABLE push_refusals (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    repository text COLLATE "C" NOT NULL CHECK (repository <> ''),
    manifest   bytea NOT NULL CHECK (octet_length(manifest) IN (32, 48, 64)),
    image      bytea CHECK (octet_length(image) IN (32, 48, 64)),
    entry_id   bytea NOT NULL CHECK (octet_length(entry_id) = 32),
    issuer     text COLLATE "C" NOT NULL,
    code       text COLLATE "C" NOT NULL CHECK (code <> ''),
    rule       text COLLATE "C" NOT NULL,
    reason     text COLLATE "C" NOT NULL,
    hint       text COLLATE "C" NOT NULL,
    policy     bytea NOT NULL CHECK (octet_length(policy) = 32),
    caller     text COLLATE "C" NOT NULL,
    at         timestamptz NOT NULL,
    UNIQUE (repository, manifest)
);
