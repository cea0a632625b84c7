-- +goose Up

-- Statement bytes are kept by the batch. A row of 2 KB of its own left a third
-- of every page empty, and TOAST on its own costs a row and an index entry
-- more than it has to; 64 KiB at a time both are a few percent. A read takes
-- its bytes out by substring(), which on an EXTERNAL value fetches the chunks in
-- question and no others. A chunk has 1,996 bytes, four to a page: the last one,
-- which is not full, would take a full one's place, so what is left of a piece
-- stays in the row, as rest.
--
-- A piece holds the statements of the entries first, first+1, …; cuts has four
-- numbers for each: where in data and rest its statement begins (from 1 on) and
-- its length, then the same of SCITT's Subject (sub), which nearly always lies
-- inside the statement and else stands behind it.
CREATE TABLE pieces (
    first bigint PRIMARY KEY CHECK (first >= 0),
    cuts  integer[] NOT NULL CHECK (cardinality(cuts) > 0 AND cardinality(cuts) % 4 = 0),
    data  bytea NOT NULL,
    rest  bytea NOT NULL
);
ALTER TABLE pieces ALTER COLUMN data SET STORAGE EXTERNAL; -- tuning
ALTER TABLE pieces ALTER COLUMN rest SET STORAGE PLAIN; -- tuning

INSERT INTO pieces (first, cuts, data, rest)
SELECT first, cuts, substring(bytes FROM 1 FOR octet_length(bytes) - octet_length(bytes) % 1996),
       substring(bytes FROM octet_length(bytes) - octet_length(bytes) % 1996 + 1)
FROM (
    SELECT min(index) AS first,
           string_to_array(string_agg(concat_ws(',', before + 1, octets, before + octets + 1, octet_length(sub)), ',' ORDER BY index), ',')::integer[] AS cuts,
           string_agg(canonical || sub, '' ORDER BY index) AS bytes
    FROM (
        SELECT index, canonical, sub, octets, kib64, few,
               sum(octets + octet_length(sub)) OVER (PARTITION BY kib64, few ORDER BY index) - octets - octet_length(sub) AS before
        FROM (
            SELECT index, canonical, convert_to(sub, 'UTF8') AS sub, octet_length(canonical) AS octets,
                   div(sum(octet_length(canonical) + octet_length(sub)) OVER (ORDER BY index), 65536) AS kib64,
                   div(index, 64) AS few
            FROM statements) AS s) AS placed
    GROUP BY kib64, few) AS pieces;

DROP TABLE statements;

-- A digest is as good as random, so that its first seven bytes find it as well
-- as all of it: with their length byte they fill one word of an index row where
-- the whole takes five. Lookups compare the whole value with the row, and an
-- index row that collides (on purpose, at 2^28 hashes) costs them a glance.
DROP INDEX entries_evidence;
CREATE INDEX entries_evidence ON entries (substr(evidence, 1, 7), index) WHERE evidence IS NOT NULL;
ALTER TABLE entry_subjects DROP CONSTRAINT entry_subjects_pkey;
CREATE INDEX entry_subjects_digest ON entry_subjects (substr(digest, 1, 7), index);

-- Most statements have no predicate type. Of an issuer that has claims of many
-- kinds, provenance is found without reading the others.
DROP INDEX entries_predicate_type;
CREATE INDEX entries_predicate_type ON entries (predicate_type_id, index) WHERE predicate_type_id IS NOT NULL;
CREATE INDEX entries_issuer_predicate_type ON entries (issuer_id, predicate_type_id, index) WHERE predicate_type_id IS NOT NULL;
