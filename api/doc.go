// Package api is the HTTP side of the service: SCRAPI at /entries and
// /.well-known/scitt-keys, the queries of /v1, the public log at /log, health
// checks, and the page of every problem.
//
// It promises:
//
//   - Every answer with a status of 400 or more is a problem document with
//     title and detail: concise problem details (CBOR, RFC 9290) on SCRAPI's
//     paths and on every path that has no route, problem+json (RFC 9457) below
//     /v1 and, with the errors that registry clients read, on the extension's
//     paths below /v2 but for registration; whatever Accept says. Wrong methods,
//     bodies over the limit and panics included. The table is Problems; each row
//     has a page at /problems/{code}.
//   - This is the only place where an error of the log becomes a status (below
//     /v2 the registry has its own). Clients see the
//     reason only where it speaks of their own bytes; a failure of ours shows
//     a trace id, and the log has the rest under it.
//   - Every lookup carries the caller's scope, and a private entry answers byte
//     for byte as an unknown one to those who may not see it.
//   - Bodies, headers, queries and waiting are bounded; who is over a rate, and
//     who comes while as many are served as may be, is told when to come back,
//     before a body is read. A batch of n statements counts as n requests of
//     its caller: it is never broken off for that, but what it takes beyond the
//     rate is paid off before the next request is let in.
//
// # The public log
//
// What auditors, mirrors and monitors read, without a token:
//
//	/log/checkpoint                    C2SP signed note, kept by caches for seconds
//	/log/checkpoint?fresh              the newest one, where the other waits for witnesses
//	/log/tile/{L}/{N}[.p/{W}]          C2SP tlog-tiles, immutable
//	/log/tile/entries/{N}[.p/{W}]      the 32-byte entry ids, immutable
//	/log/heads?after=S&limit=n         every signed head above size S, as JSON
//	/log/inclusion/{id}?size=S         receipt under the signed head of size S, or under the newest
//	/log/consistency?from=A&to=B       COSE consistency receipt, or hashes as JSON
//	/v1/statements?from=i&limit=n      CBOR sequence of [leaf index, bytes of the statement]
//	/v1/decisions?from=i&limit=n       CBOR sequence of what was decided, with its collateral: ledger.AppendDecided
//
// A partial tile is there for each size that was signed, and at no other width.
// Tiles and bundles show ids of all entries: that something private was
// registered is no secret. Its bytes are: /v1/statements has null in their
// place, so that an auditor without the scope read still accounts for every
// leaf, and /log/inclusion does not know its id. Heads, and the JSON of
// consistency, have hashes and signatures in base64.
//
// # What comes beside a statement
//
// Registration takes two parameters that are not signed. ?evidence=<digest> names
// what was staged with PUT /v1/evidence/{digest}: the payload of a detached
// statement, which its signature then proves, and whose digest is kept beside the
// entry, so that an auditor knows what was verified. In the extension,
// ?subject=<digest> names the image that a statement hangs on which names none
// itself; one that does must name that one. Neither enters a decision otherwise.
//
// POST /v1/entries:validate takes the same and answers what would be decided.
// /v1/policy shows the registration policy in force and what operators have signed
// to replace it, ?entry=<id> that of an entry, ?at=<index> the one that judges the
// entry there; /v1/policy/refusals?since=&limit= how often which rule refused whom,
// to tokens of scope read.
// /v1/check answers whether an artifact has the claims that are required, and
// /v1/refusals lists statements that were pushed to the registry and not
// registered: to everybody where pulls are open, else to tokens of scope read.
// Below /v2/<name>/_scitt/ the same handlers count only what is placed
// in that repository; see Modules.
//
// It does not decide what may be registered, does not place anything in a
// registry, and does not know which database or registry there is: it is given
// a Ledger to read, a Registrar to write, and stores for staged evidence and
// tokens.
//
// # Evidence, and images that belong together
//
// An entry says where the bytes are that it speaks for: none, staged, placed,
// missing (found gone) or purged (by somebody's word).
//
//	GET  /v1/entries/{id}/evidence        307 to the registry, or a stream with ranges; 404; 410 once purged
//	POST /v1/entries/{id}/evidence:purge  {"reason":…}, with the scope purge
//	PUT  /v1/indexes/{digest}             an image index that no registry of this service shows it
//
// A purge is of bytes: it holds for every claim that speaks of them. Statement and
// receipt stay, and the 410 says what is still known. Who asks for claims about an
// image also finds those about an index that lists it, marked via; with
// instances=true, who asks for an index finds those about what it lists, marked
// instance.
//
// # What is refused before any handler
//
// net/http answers some requests itself, as text/plain or with no body, and
// closes the connection. No handler sees them, so they are not problem
// documents:
//
//	400  no Host header in HTTP/1.1, more than one, or one that is malformed
//	400  a request line that is not one, a bad %-escape in the path
//	400  a header name or value with forbidden bytes, or no colon
//	400  Content-Length that is no number, or several that differ
//	417  Expect with anything but 100-continue (no body)
//	431  request line and headers over NewServer's limit
//	501  Transfer-Encoding with anything but chunked
//	505  a protocol version that is not HTTP/1
//
// A connection that sends nothing, or no whole header within five seconds, is
// closed without an answer.
package api
