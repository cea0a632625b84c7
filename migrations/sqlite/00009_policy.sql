-- +goose Up

-- The entries of an issuer by SCITT's Subject (sub), for policies that judge by
-- what the log has of the same sub. Few have such, so that it is made for an
-- issuer when first asked for, and made longer now and then: it reaches up to
-- series_upto.upto. sub is the first four bytes of its SHA-256; the statement
-- decides. Nothing in here could not be made anew.
CREATE TABLE series (
    issuer_id INTEGER NOT NULL,
    sub       INTEGER NOT NULL,
    "index"   INTEGER NOT NULL CHECK ("index" >= 0),
    PRIMARY KEY (issuer_id, sub, "index")
) STRICT, WITHOUT ROWID;
CREATE TABLE series_upto (
    issuer_id INTEGER PRIMARY KEY,
    upto      INTEGER NOT NULL CHECK (upto >= 0)
) STRICT;

-- How often which rule refused whom, and what the last one of them was told: no
-- statement, and issuer is what it says of its signer, unverified.
CREATE TABLE refusals (
    code     TEXT    NOT NULL CHECK (code <> ''),
    rule     TEXT    NOT NULL,
    policy   BLOB    NOT NULL CHECK (length(policy) = 32),
    issuer   TEXT    NOT NULL,
    count    INTEGER NOT NULL CHECK (count > 0),
    first_at INTEGER NOT NULL,
    last_at  INTEGER NOT NULL,
    reason   TEXT    NOT NULL,
    hint     TEXT    NOT NULL,
    PRIMARY KEY (code, rule, policy, issuer)
) STRICT;
CREATE INDEX refusals_last ON refusals (last_at);
