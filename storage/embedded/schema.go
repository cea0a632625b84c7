package embedded

import (
	"database/sql"
	"errors"
	"fmt"
)

// migrations take registry.db from version 0, which is empty, to the newest.
// They only go forward. Repositories appear with their first blob or manifest
// and stay. The manifest's body is the last column, so that listing referrers
// does not read it.
var migrations = []string{`
CREATE TABLE repositories (
	id   INTEGER PRIMARY KEY,
	name TEXT NOT NULL UNIQUE
) STRICT;

-- one row per file below blobs/
CREATE TABLE blobs (
	digest TEXT PRIMARY KEY,
	size   INTEGER NOT NULL CHECK (size >= 0)
) STRICT, WITHOUT ROWID;

-- a blob is in a repository only by such a row
CREATE TABLE links (
	repository INTEGER NOT NULL REFERENCES repositories,
	digest     TEXT NOT NULL REFERENCES blobs,
	linked_at  INTEGER NOT NULL,
	PRIMARY KEY (repository, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX links_digest ON links (digest);

CREATE TABLE manifests (
	repository    INTEGER NOT NULL REFERENCES repositories,
	digest        TEXT NOT NULL,
	media_type    TEXT NOT NULL,
	subject       TEXT,
	artifact_type TEXT NOT NULL,
	annotations   TEXT NOT NULL,
	body          BLOB NOT NULL CHECK (length(body) <= 4194304),
	UNIQUE (repository, digest)
) STRICT;
CREATE INDEX manifests_subject ON manifests (repository, subject, digest) WHERE subject IS NOT NULL;

-- what a manifest names is not garbage
CREATE TABLE named (
	repository INTEGER NOT NULL,
	digest     TEXT NOT NULL,
	manifest   TEXT NOT NULL,
	PRIMARY KEY (repository, digest, manifest),
	FOREIGN KEY (repository, manifest) REFERENCES manifests (repository, digest) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX named_manifest ON named (repository, manifest);

CREATE TABLE tags (
	repository INTEGER NOT NULL,
	tag        TEXT NOT NULL,
	manifest   TEXT NOT NULL,
	PRIMARY KEY (repository, tag),
	FOREIGN KEY (repository, manifest) REFERENCES manifests (repository, digest) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX tags_manifest ON tags (repository, manifest);

-- hash is the marshalled SHA-256 state after received bytes
CREATE TABLE uploads (
	id         TEXT PRIMARY KEY,
	repository TEXT NOT NULL,
	received   INTEGER NOT NULL CHECK (received >= 0),
	hash       BLOB NOT NULL,
	touched_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
`, `
-- An upload belongs to who began it ('': nobody known), and ends some time after
-- it began however often it is touched.
ALTER TABLE uploads ADD COLUMN caller TEXT NOT NULL DEFAULT '';
ALTER TABLE uploads ADD COLUMN started_at INTEGER NOT NULL DEFAULT 0;
UPDATE uploads SET started_at = touched_at;
CREATE INDEX uploads_repository ON uploads (repository, touched_at);
CREATE INDEX uploads_touched ON uploads (touched_at);

-- a filtered page of referrers reads no more rows than it lists
CREATE INDEX manifests_type ON manifests (repository, subject, artifact_type, digest) WHERE subject IS NOT NULL;

-- the bytes of all blobs, manifests and uploads, and how many uploads there are,
-- kept by triggers: counting for every push would read every row
CREATE TABLE usage (
	one     INTEGER PRIMARY KEY CHECK (one = 1),
	bytes   INTEGER NOT NULL,
	uploads INTEGER NOT NULL
) STRICT;
INSERT INTO usage (one, bytes, uploads) SELECT 1,
	(SELECT COALESCE(SUM(size), 0) FROM blobs) +
	(SELECT COALESCE(SUM(length(body)), 0) FROM manifests) +
	(SELECT COALESCE(SUM(received), 0) FROM uploads),
	(SELECT COUNT(*) FROM uploads);
CREATE TRIGGER blob_in  AFTER INSERT ON blobs BEGIN UPDATE usage SET bytes = bytes + NEW.size; END;
CREATE TRIGGER blob_out AFTER DELETE ON blobs BEGIN UPDATE usage SET bytes = bytes - OLD.size; END;
CREATE TRIGGER manifest_in  AFTER INSERT ON manifests BEGIN UPDATE usage SET bytes = bytes + length(NEW.body); END;
CREATE TRIGGER manifest_out AFTER DELETE ON manifests BEGIN UPDATE usage SET bytes = bytes - length(OLD.body); END;
CREATE TRIGGER upload_in  AFTER INSERT ON uploads BEGIN UPDATE usage SET bytes = bytes + NEW.received, uploads = uploads + 1; END;
CREATE TRIGGER upload_on  AFTER UPDATE OF received ON uploads BEGIN UPDATE usage SET bytes = bytes + NEW.received - OLD.received; END;
CREATE TRIGGER upload_out AFTER DELETE ON uploads BEGIN UPDATE usage SET bytes = bytes - OLD.received, uploads = uploads - 1; END;
`}

// migrate brings registry.db to the newest version, each step in a transaction
// of its own.
func migrate(db *sql.DB) error {
	var version int
	if err := db.QueryRow("PRAGMA user_version").Scan(&version); err != nil {
		return fmt.Errorf("read registry.db: %w", err)
	}
	if version > len(migrations) {
		return fmt.Errorf("registry.db has version %d, written by a newer scittd; this one knows %d", version, len(migrations))
	}
	for ; version < len(migrations); version++ {
		tx, err := db.Begin()
		if err != nil {
			return fmt.Errorf("bring registry.db to version %d: %w", version+1, err)
		}
		_, err = tx.Exec(migrations[version] + fmt.Sprintf("PRAGMA user_version = %d;", version+1))
		if err != nil {
			return errors.Join(fmt.Errorf("bring registry.db to version %d: %w", version+1, err), tx.Rollback())
		}
		if err := tx.Commit(); err != nil {
			return fmt.Errorf("bring registry.db to version %d: %w", version+1, err)
		}
	}
	return nil
}
