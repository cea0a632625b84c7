-- +goose Up

-- A fourth thing that happens to deliveries beside the log: a claim that is
-- registered already is given another place, by whoever may write there.
-- Constraints cannot be changed, so the table is made anew.
CREATE TABLE interventions_new (
    id         INTEGER PRIMARY KEY,
    at         INTEGER NOT NULL,
    who        TEXT    NOT NULL CHECK (who <> ''),
    why        TEXT    NOT NULL,
    action     TEXT    NOT NULL CHECK (action IN ('retry', 'park', 'drop', 'place')),
    "index"    INTEGER NOT NULL REFERENCES entries ("index"),
    registry   TEXT    NOT NULL,
    repository TEXT    NOT NULL,
    subject    TEXT    NOT NULL,
    artifact   TEXT    NOT NULL,
    state      TEXT    NOT NULL,
    tries      INTEGER NOT NULL,
    last_error TEXT    NOT NULL
) STRICT;
INSERT INTO interventions_new SELECT * FROM interventions;
DROP TABLE interventions;
ALTER TABLE interventions_new RENAME TO interventions;
CREATE INDEX interventions_entry ON interventions ("index");

-- The images that claims were hung on so, besides those that they are about and
-- the one that they came for first: what is placed beside an image is found by it.
CREATE TABLE later_images (
    image   TEXT    NOT NULL CHECK (length(image) BETWEEN 71 AND 135),
    "index" INTEGER NOT NULL REFERENCES entries ("index"),
    PRIMARY KEY (image, "index")
) STRICT, WITHOUT ROWID;
