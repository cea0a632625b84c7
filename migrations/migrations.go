// Package migrations embeds the schema of both stores. Files only go forward;
// each says what it adds and why.
package migrations

import "embed"

// FS holds postgres/*.sql and sqlite/*.sql in goose's format.
//
//go:embed postgres/*.sql sqlite/*.sql
var FS embed.FS
