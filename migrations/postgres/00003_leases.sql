-- +goose Up

-- What one of several processes is enough for, such as publishing to a bucket:
-- who does it, and until when. Expired rows are taken over, not deleted; there
-- is one for each kind of work.
CREATE TABLE leases (
    work  text COLLATE "C" PRIMARY KEY CHECK (work <> ''),
    owner text COLLATE "C" NOT NULL CHECK (owner <> ''),
    until timestamptz NOT NULL
);
