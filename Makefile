# One line a target: the text after ## is what `make help` prints.
.DEFAULT_GOAL := help
GO ?= go
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

help: ## print this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

build: ## build both static binaries into bin/
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o bin/ ./cmd/scittd ./cmd/scitt

demo: build ## the whole story on loopback, embedded; STORE=postgres for PostgreSQL and an external registry, KEEP=1 to leave it running
	@scripts/demo

test: testdeps ## all tests, on SQLite with the embedded registry and on PostgreSQL with an external one
	$(GO) vet ./...
	$(GO) test -timeout 18m ./...

testdeps: ## find or install what the tests need: PostgreSQL server binaries, docker-registry, nginx
	@scripts/testdeps

lint: ## gofmt, go vet, staticcheck
	@test -z "$$(gofmt -l .)" || { gofmt -l .; exit 1; }
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...
	cd bench && $(GO) vet ./...

cover: testdeps ## test coverage by room, into cover.out
	$(GO) test -coverpkg=./... -coverprofile=cover.out ./...
	$(GO) tool cover -func=cover.out | tail -1

bench: build testdeps ## registrations per second and what they cost, on a throw-away PostgreSQL
	cd bench && $(GO) run . $(BENCHFLAGS)

bench-short: build testdeps ## the same, once and small: shows that it runs
	cd bench && $(GO) run . -repeats 1 -window 200ms -small 500 -large 1000 -sizes 1000,2000 $(BENCHFLAGS)

replicas: build testdeps ## several scittd on one database against one: rate, fairness, discarded batches, a stopped lock holder
	cd bench && $(GO) run ./replicas $(BENCHFLAGS)

overload: build testdeps ## more than scittd can take, in open loop: how fast it refuses, what accepted work waits for, memory
	cd bench && $(GO) run ./overload $(BENCHFLAGS)

bench-registry: ## the embedded registry: attaches a second, long referrers lists, hostile manifests, abandoned uploads; fails when a goal is missed
	cd bench && $(GO) run ./registry $(BENCHFLAGS)

crash: testdeps ## kill scittd and PostgreSQL again and again; CRASHFLAGS='-service 10000 -postgres 2000' for the long form
	$(GO) test -count=1 -timeout 0 -v ./internal/crash $(CRASHFLAGS)

crash-registry: ## kill the embedded registry under load again and again: what was answered is there, uploads go on; KILLS=200
	$(GO) test -count=1 -timeout 0 -v -run Kill9 ./storage/embedded -kills $(or $(KILLS),200)

pulls: testdeps ## 10,000 pulls through the front while PostgreSQL is stopped for ten minutes (PULLS=, FOR=): none fails, and a manifest takes no longer
	$(GO) test -count=1 -timeout 0 -v -run TestPullsAndPushesNeedNoDatabase ./cmd/scittd -outage.pulls $(or $(PULLS),10000) -outage.time $(or $(FOR),10m)

soak: testdeps ## two replicas under a mixed load, every answer checked, memory measured, CheckLog at the end; FOR=10m
	$(GO) test -count=1 -timeout 0 -v -run TestReplicasUnderMixedLoad ./internal/crash -soak $(or $(FOR),10m)

corruption: ## flip bits of a ledger file, one at a time: each is found or harmless; FLIPS=10000
	$(GO) test -count=1 -timeout 0 -v -run TestOneFlippedBit ./ledger/sqlite -corruption.flips $(or $(FLIPS),10000) -corruption.seed $(or $(SEED),1)

faults: testdeps ## the long forms of what tests do a little of: commits in doubt, linearizability, pairs of faults, random histories
	$(GO) test -count=1 -timeout 0 -v -run 'TestDoubt|TestRegistrationsAndReads' ./ledger/postgres -doubtful 2000 -histories 100
	$(GO) test -count=1 -timeout 0 -v -run TestAnyTwoFaults ./internal/registrar -pairs 0
	$(GO) test -count=1 -timeout 0 -v -run TestWhateverBecomesOfAWrite ./ledger/publish -pairs 0
	$(GO) test -count=1 -timeout 0 -v -run TestALedgerIsASlice ./ledger/sqlite -rapid.checks 500

outage: testdeps ## take a registry away for 5 minutes of real time (LONG=60m) while claims come in, then let a tenth of its answers fail as long
	$(GO) test -count=1 -timeout 0 -v -run TestAnOutage ./internal/registrar -outage $(or $(LONG),5m)

writeback: testdeps ## 4 replicas x 64 writers on one image, at registries that list, that do not, that lose and that fail: nothing lost; WRITERS=64
	$(GO) test -count=1 -timeout 0 -v -run TestNoReferrer ./internal/registrar -writers $(or $(WRITERS),64) -onpostgres
	PATH="$$(scripts/interopdeps):$$PATH" $(GO) test -count=1 -timeout 0 -v -run 'TestNoReferrerIsLost$$/distribution' ./internal/registrar -writers $(or $(WRITERS),64) -onpostgres -distribution registry

race: testdeps ## the rooms with goroutines under the race detector, tests shuffled
	$(GO) test -count=1 -race -shuffle=on -timeout 20m ./ledger/... ./internal/registrar ./api

bench-front: build testdeps ## what standing in front of a registry costs: CPU of a pull, latency, memory of a 300 MB blob; and how soon docker-registry and distribution v3 list a receipt
	cd bench && $(GO) run ./front $(BENCHFLAGS)
	cd bench && PATH="$$(../scripts/interopdeps):$$PATH" $(GO) run ./front -registry registry $(BENCHFLAGS)

compat: testdeps ## what a PostgreSQL-speaking database keeps of the promises: DSN=postgres://… (default: a throw-away one), OUT=docs/compat.md
	$(GO) test -c -o bin/compat.test ./compat
	bin/compat.test -test.timeout 2h -full -dsn '$(DSN)' -out '$(OUT)'

compat-patroni: testdeps ## the leader of three nodes under patroni and etcd killed 20 times under load; OUT as above
	@scripts/patronideps
	$(GO) test -c -tags patroni -o bin/compat-patroni.test ./compat
	bin/compat-patroni.test -test.timeout 2h -test.run Leader -full -out '$(OUT)'

interop: build testdeps ## the OCI clients people have, through the front, before each of four registries, into docs/interop.md; INTEROPFLAGS='-direct -out=' to leave the front out
	$(GO) test -c -o bin/interop.test ./interop
	cd interop && PATH="$$(../scripts/interopdeps):$$PATH" ../bin/interop.test -test.timeout 1h -full -bin ../bin -out ../docs/interop.md $(INTEROPFLAGS)

model: testdeps ## check the model of sequencer and outbox exhaustively, that it catches seeded bugs, and that runs of the code are histories of it; RUNS=25
	@model/run
	$(GO) test -count=1 -tags spin ./model -runs $(or $(RUNS),25)

.PHONY: help build demo test testdeps lint cover bench bench-short bench-front bench-registry compat compat-patroni interop replicas overload crash crash-registry soak corruption faults outage pulls race writeback model
