# One line a target: the text after ## is what `make help` prints.
.DEFAULT_GOAL := help
GO ?= go
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

help: ## print this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-10s %s\n", $$1, $$2}'

build: ## build both static binaries into bin/
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o bin/ ./cmd/scittd ./cmd/scitt

demo: build ## the whole story on loopback, embedded; STORE=postgres for PostgreSQL and an external registry, KEEP=1 to leave it running
	@scripts/demo

test: testdeps ## all tests, on SQLite with the embedded registry and on PostgreSQL with an external one
	$(GO) vet ./...
	$(GO) test -timeout 18m ./...

testdeps: ## find or install what the tests need: PostgreSQL server binaries, docker-registry
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

model: ## check the model of sequencer and outbox exhaustively, and that it catches seeded bugs
	@model/run

.PHONY: help build demo test testdeps lint cover bench model
