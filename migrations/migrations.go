// Package migrations embeds the schema of both stores. Files only go forward;
// each says what it adds and why.
package migrations

import "embed"

// FS holds postgres/*.sql and sqlite/*.sql in goose's format.
//
//go:embed postgres/*.sql sqlite/*.sql
var FS embed.FS

// Dictionaries are the tables of both that intern text; an entry names its row in
// the column.
var Dictionaries = []struct{ Table, Column string }{
	{"issuers", "issuer_id"}, {"media_types", "media_type_id"}, {"predicate_types", "predicate_type_id"},
}
