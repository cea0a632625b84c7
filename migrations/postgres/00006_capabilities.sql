-- +goose Up

-- How repositories list referrers, as somebody found out by attaching and
-- listing: 'api', 'tags', 'both', or '' for what was found out and has changed
-- since. It saves finding out again, for a day; nothing depends on it.
CREATE TABLE capabilities (
    registry   text COLLATE "C" NOT NULL CHECK (registry <> ''),
    repository text COLLATE "C" NOT NULL CHECK (repository <> ''),
    capability text COLLATE "C" NOT NULL CHECK (octet_length(capability) <= 16),
    at         timestamptz NOT NULL,
    PRIMARY KEY (registry, repository)
);
