-- +goose Up

-- How repositories list referrers, as somebody found out by attaching and
-- listing: 'api', 'tags', 'both', or '' for what was found out and has changed
-- since. It saves finding out again, for a day; nothing depends on it.
CREATE TABLE capabilities (
    registry   TEXT    NOT NULL CHECK (registry <> ''),
    repository TEXT    NOT NULL CHECK (repository <> ''),
    capability TEXT    NOT NULL CHECK (length(capability) <= 16),
    at         INTEGER NOT NULL,
    PRIMARY KEY (registry, repository)
) STRICT, WITHOUT ROWID;
