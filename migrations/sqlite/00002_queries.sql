-- +goose Up

-- Registration time is a place in the log: that of the last head before it. So
-- a range of times bounds the walk of whatever index a query takes, instead of
-- being one to be sorted.
CREATE INDEX heads_iat ON heads (iat, size);
DROP INDEX entries_registered_at;

-- Of an issuer that has claims of many kinds, provenance is found without
-- reading the others.
CREATE INDEX entries_issuer_predicate_type ON entries (issuer_id, predicate_type_id, "index");
