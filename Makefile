# `make help` lists the targets: those with a ## behind them.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# Tools are pinned, built from source and kept here, not in the user's GOBIN.
TOOLS := $(CURDIR)/.bin
GOLANGCI_VERSION := v2.15.0
GOLANGCI := $(TOOLS)/golangci-lint-$(GOLANGCI_VERSION)
GOVULNCHECK_VERSION := v1.9.0
GOVULNCHECK := $(TOOLS)/govulncheck-$(GOVULNCHECK_VERSION)
CYCLONEDX_VERSION := v1.10.0
CYCLONEDX := $(TOOLS)/cyclonedx-gomod-$(CYCLONEDX_VERSION)

# A checkout that belongs to another user (a container, a shared folder) makes
# git refuse to answer, and with it go build: so the version comes from here.
GIT := git -c safe.directory='*'
VERSION ?= $(shell $(GIT) describe --tags --always --dirty 2>/dev/null || echo dev)
export GOFLAGS := $(strip $(shell go env GOFLAGS) -buildvcs=false)
LDFLAGS := -s -w -X main.version=$(VERSION)
TESTFLAGS := -vet=off -ldflags '-s -w'

# Hidden folders and other people's code are not ours to format.
GO_FILES = find . -name '*.go' -not -path './.*' -not -path '*/node_modules/*'

.PHONY: help run test test-long plain race chaos soak lint fmt-check bench bench-table microbench build image push sbom govulncheck setup

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Built and then run, not `go run`, so that signals reach the program itself.
run: ## Start two replicas with a private Postgres and a page to try (ARGS=… for more)
	@[ -x $(TOOLS)/forgewire ] || echo 'building Forgewire (a minute or two, once)' >&2
	@go build -ldflags '$(LDFLAGS)' -o $(TOOLS)/forgewire ./cmd/forgewire
	@exec $(TOOLS)/forgewire dev $(ARGS)

# What only a debugger reads, and what libraries have inlined, is two fifths of the time that compiling takes.
test plain race chaos soak: export GOFLAGS += -gcflags=all=-dwarf=false \
	$(foreach from,github.com go.opentelemetry.io golang.org google.golang.org k8s.io,'-gcflags=$(from)/...=-dwarf=false -l')

# What runs goroutines of its own is tried with the race detector. The rest is tried as it is deployed, without C; with the
# race detector, too, by make test-long.
RACE := ./cache/llm ./realtime ./db ./handlers/access ./handlers/middleware ./handlers/stream ./infra/memory
PLAIN = $$(go list ./... | grep -vxFf <(go list $(RACE) ./cache ./e2e))

BUILD_PLAIN = (export CGO_ENABLED=0; go build ./... && go build -C e2e/peer -o /dev/null)

# The tests' servers make and delete many thousands of files, which takes a disk's file system (ext4 looks at each that was
# deleted lately) a fifth of all time: they are in memory where there is room. Go's own files need not be.
IN_MEMORY = if [ -z "$${TMPDIR:-}" ] && ! grep -q ' /dev/shm .*noexec' /proc/mounts 2>/dev/null && \
	[ "$$(df -k --output=avail /dev/shm 2>/dev/null | tail -n 1)" -gt 4000000 ] 2>/dev/null; then \
		TMPDIR=$$(mktemp -d /dev/shm/forgewire-test-XXXXXX); export TMPDIR GOTMPDIR=/tmp; \
		trap 'rm -rf "$$TMPDIR"' EXIT; chmod 1777 "$$TMPDIR"; \
	fi

# go test comes last: the end of the output tells the result. On a new machine much of the time goes into compiling, which
# begins while packages are fetched; the benchmark's peer is built then, as several tests want it at the same time. What
# waits longest starts first. The cache is tried when nothing is compiled beside it, as a slow Valkey is a miss.
test: ## Install what the tests need, and run all tests
	@$(BUILD_PLAIN) & ./e2e/setup.sh; wait $$!; \
	$(IN_MEMORY); \
	race=-race; \
	command -v gcc >/dev/null || { race=; export CGO_ENABLED=0; echo 'no gcc: running without the race detector' >&2; }; \
	go test $$race $(TESTFLAGS) -p 3 -parallel 4 $(RACE) && \
	go test $$race $(TESTFLAGS) -parallel 4 ./cache && \
	export CGO_ENABLED=0 && \
	{ go test -C e2e/deploy $(TESTFLAGS) -count=1 ./... & } && \
	go test $(TESTFLAGS) -p 3 -parallel 4 ./infra/devstack ./cmd/forgewire/bench ./e2e/docs $(PLAIN) && wait $$! && \
	go test $(TESTFLAGS) -timeout 8m -run '^TestPublishedClient' ./realtime && \
	go test $(TESTFLAGS) -count=1 ./e2e # not cached: it builds its binary

test-long: setup ## The rest: everything in e2e, with the race detector, faults for as long as the promises say (RUN=regexp)
	@cd e2e/deploy && E2E_LONG=1 go test -count=1 -timeout 0 $(if $(RUN),-run '$(RUN)') ./...
	@E2E_LONG=1 go test -race -p 1 -count=1 -timeout 0 $(if $(RUN),-run '$(RUN)') $$(go list ./... | grep -v '/e2e$$')
	@E2E_LONG=1 go test -tags long -count=1 -timeout 0 $(if $(RUN),-run '$(RUN)') ./e2e # the published Go client has races of its own

chaos: setup ## Break everything for a while and check every promise (TIME=10m SEED=… ONLY=regexp REPORT=file.md)
	@FORGEWIRE_CHAOS_TIME=$(or $(TIME),10m) FORGEWIRE_CHAOS_SEED=$(SEED) FORGEWIRE_CHAOS_ONLY='$(ONLY)' FORGEWIRE_CHAOS_REPORT=$(abspath $(REPORT)) \
		CGO_ENABLED=0 go test -vet=off -count=1 -timeout 0 -run '^TestChaos$$' -v ./e2e

soak: setup ## Let everybody work for long and watch what grows (TIME=2h SPEED=1 SVG=docs/soak.svg)
	@FORGEWIRE_SOAK_TIME=$(or $(TIME),2h) FORGEWIRE_SOAK_SPEED=$(SPEED) FORGEWIRE_SOAK_SVG=$(abspath $(or $(SVG),docs/soak.svg)) \
		CGO_ENABLED=0 go test -vet=off -count=1 -timeout 0 -run '^TestSoak$$' -v ./e2e

plain: # compile what most tests are of
	@$(BUILD_PLAIN)

race: # compile what the tests with the race detector are of
	@go build -race $(RACE) ./cache

lint: fmt-check $(GOLANGCI) ## Check formatting, vet, and run golangci-lint
	@go vet -tags long ./... && go vet -C e2e/deploy ./...
	@$(GOLANGCI) run

fmt-check:
	@files=$$($(GO_FILES) -print0 | xargs -0 -r gofmt -l); \
	[ -z "$$files" ] || { echo 'not formatted (gofmt -w):' $$files >&2; exit 1; }

bench: build ## Measure everything: bin/bench.json and bin/bench.html (ARGS=--quick for two minutes)
	@bin/forgewire bench all --json bin/bench.json --html bin/bench.html $(ARGS)

bench-table: build ## Write the README's figures from docs/bench.json
	@bin/forgewire bench table docs/bench.json --write README.md

microbench: ## Run the Go benchmarks of all packages (BENCH=regexp for some)
	@go test -run '^$$' -bench '$(or $(BENCH),.)' -benchmem ./...

build: ## Build the static binary bin/forgewire
	@CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/forgewire ./cmd/forgewire

# The commit's date in place of the clock.
BUILD_IMAGE = docker buildx build --build-arg VERSION=$(VERSION) --build-arg REVISION=$$($(GIT) rev-parse HEAD) \
	--build-arg SOURCE_DATE_EPOCH=$$($(GIT) log -1 --format=%ct) --tag $(or $(IMAGE),forgewire:$(VERSION))

# For amd64 wherever it is built, as Cloud Run has nothing else. Docker's own store takes no attestation.
image: ## Build the container image for this machine's Docker (IMAGE=name), with BuildKit
	@$(BUILD_IMAGE) --platform linux/amd64 --provenance=false --output type=docker .

push: ## Build the image for amd64 and arm64, with an attestation, and push it (IMAGE=name; docker buildx create --use first)
	@$(BUILD_IMAGE) --platform linux/amd64,linux/arm64 --provenance=mode=max --output type=registry,rewrite-timestamp=true .

sbom: build $(CYCLONEDX) ## List what bin/forgewire is made of in bin/forgewire.cdx.json (CycloneDX)
	@$(CYCLONEDX) bin -json -licenses -version $(VERSION) -output bin/forgewire.cdx.json bin/forgewire

govulncheck: $(GOVULNCHECK) ## Look for known vulnerabilities in what we call
	@$(GOVULNCHECK) ./...

setup: ## Install what the tests need besides Go and Node (as root or with sudo, on Debian)
	@./e2e/setup.sh

$(GOLANGCI):
	@echo 'building golangci-lint $(GOLANGCI_VERSION) (a minute or two, once)' >&2
	@GOBIN=$(TOOLS) go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)
	@mv $(TOOLS)/golangci-lint $@

$(GOVULNCHECK):
	@GOBIN=$(TOOLS) go install golang.org/x/vuln/cmd/govulncheck@$(GOVULNCHECK_VERSION)
	@mv $(TOOLS)/govulncheck $@

$(CYCLONEDX):
	@GOBIN=$(TOOLS) go install github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@$(CYCLONEDX_VERSION)
	@mv $(TOOLS)/cyclonedx-gomod $@
