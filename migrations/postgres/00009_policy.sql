-- +goose Up

-- What a key was found under: a name of the certificate, a DID URL.
ALTER TABLE audit ADD COLUMN identity_name text COLLATE "C" NOT NULL DEFAULT '';

-- The entries of an issuer by SCITT's Subject (sub), for policies that judge by
-- what the log has of the same sub. Few have such, and an index of all entries
-- would cost each of them a twentieth of its room, so that it is made for an
-- issuer when first asked for, and made longer now and then: it reaches up to
-- series_upto.upto. sub is the first four bytes of its SHA-256; the statement
-- decides. Nothing in here could not be made anew.
CREATE TABLE series (
    issuer_id integer NOT NULL,
    sub       integer NOT NULL,
    index     bigint NOT NULL CHECK (index >= 0),
    PRIMARY KEY (issuer_id, sub, index)
);
CREATE TABLE series_upto (
    issuer_id integer PRIMARY KEY,
    upto      bigint NOT NULL CHECK (upto >= 0)
);

-- How often which rule refused whom, and what the last one of them was told: no
-- statement, and issuer is what it says of its signer, unverified.
CREATE TABLE refusals (
    code     text COLLATE "C" NOT NULL CHECK (code <> ''),
    rule     text COLLATE "C" NOT NULL,
    policy   bytea NOT NULL CHECK (octet_length(policy) = 32),
    issuer   text COLLATE "C" NOT NULL CHECK (octet_length(issuer) <= 1024),
    count    bigint NOT NULL CHECK (count > 0),
    first_at timestamptz NOT NULL,
    last_at  timestamptz NOT NULL,
    reason   text COLLATE "C" NOT NULL,
    hint     text COLLATE "C" NOT NULL,
    PRIMARY KEY (code, rule, policy, issuer)
);
CREATE INDEX refusals_last ON refusals (last_at);
