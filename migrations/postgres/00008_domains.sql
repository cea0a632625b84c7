-- +goose Up

-- A CHECK of a table is read and planned anew for every statement that inserts
-- into it, a domain's once in a session: for a commit of one entry, whose few rows
-- are written by five statements, a sixth of what it costs the server. So what a
-- column can be said of alone is said by its type. Not every engine has domains;
-- the portable profile keeps the checks, which say the same.
CREATE DOMAIN leaf_index AS bigint CHECK (VALUE >= 0); -- tuning
CREATE DOMAIN sha256_bytes AS bytea CHECK (octet_length(VALUE) = 32); -- tuning
CREATE DOMAIN digest_bytes AS bytea CHECK (octet_length(VALUE) IN (32, 48, 64)); -- tuning
CREATE DOMAIN piece_cuts AS integer[] CHECK (cardinality(VALUE) > 0 AND cardinality(VALUE) % 4 = 0); -- tuning

-- One statement for a table, for each makes it anew.
ALTER TABLE heads ALTER COLUMN root TYPE sha256_bytes, DROP CONSTRAINT heads_root_check; -- tuning
ALTER TABLE entries -- tuning
    ALTER COLUMN index TYPE leaf_index, DROP CONSTRAINT entries_index_check, -- tuning
    ALTER COLUMN entry_id TYPE sha256_bytes, DROP CONSTRAINT entries_entry_id_check, -- tuning
    ALTER COLUMN evidence TYPE digest_bytes, DROP CONSTRAINT entries_evidence_check; -- tuning
ALTER TABLE entry_subjects ALTER COLUMN digest TYPE digest_bytes, DROP CONSTRAINT entry_subjects_digest_check; -- tuning
ALTER TABLE pieces -- tuning
    ALTER COLUMN first TYPE leaf_index, DROP CONSTRAINT pieces_first_check, -- tuning
    ALTER COLUMN cuts TYPE piece_cuts, DROP CONSTRAINT pieces_cuts_check; -- tuning
