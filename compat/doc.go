// Package compat shows, for one database that speaks PostgreSQL, whether a
// ledger on it keeps its promises: make compat DSN=… runs every promise of a
// store, storms of duplicates, commits whose answer is lost, several replicas
// and added latency against it, and prints a table for docs/compat.md.
//
// What it makes there it makes in schemas of its own, which it drops. It looks
// at the database from outside, through proxies that cut, delay or refuse, and
// knows nothing of how any engine works.
//
// make compat-patroni (build tag patroni) does the same for the failover of
// three PostgreSQL nodes under Debian's patroni and etcd.
package compat
