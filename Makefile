# Only names: the scripts, npm and cargo do the work.

# Delete incomplete targets of failed builds.
.DELETE_ON_ERROR:

.PHONY: help run test quick soak simulate fuzz autobahn send-path bench bench-rivals torture torture-cluster mutations lint fmt build page dist dist-check dist-twice release tidy types screenshots clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

run: page ## a development server; more flags with ARGS="--listen 127.0.0.1:9600"
	cargo run --release --locked --bin switchboard -- dev $(ARGS)

test: ## everything that CI checks
	scripts/test.sh

quick: ## the inner loop: unit and integration tests of Rust alone, within two minutes once built
	cargo test --workspace --lib --bins --locked
	cargo test -p switchboard-server --test it --locked

soak: page ## attacks and loads at full size, one after another; only one with ARGS="soak::door"
	cargo test --release --locked -p switchboard-server --test it -- --ignored --nocapture --test-threads 1 $(or $(ARGS),soak::)
	$(if $(ARGS),,cargo build --release --locked --bin switchboard)
	$(if $(ARGS),,SWITCHBOARD_BINARY=$(CURDIR)/target/release/switchboard npm run soak -w packages/client)
	$(if $(ARGS),,SWITCHBOARD_BINARY=$(CURDIR)/target/release/switchboard npm run soak -w e2e)

simulate: ## deterministic simulation: SEEDS=10000 seeds, from FIRST=0 on; SEED=7 prints the events of one
	SEED=$(SEED) FIRST=$(FIRST) SEEDS=$(SEEDS) cargo test --profile simulation --locked -p switchboard-server \
	  --features simulation --test simulation -- --ignored --nocapture

fuzz: ## every fuzz target for a minute; seconds and targets with ARGS="600 log"
	scripts/fuzz.sh $(ARGS)

autobahn: ## the framing against Autobahn's WebSocket cases, if WSTEST or PATH has wstest
	scripts/autobahn.sh $(ARGS)

bench: page ## the server against the machine's lower bounds; 9 minutes, more flags with ARGS="fanout --rounds 1"
	cargo build --release --locked --bin switchboard
	cargo run --release --locked --bin switchboard-bench -- --scratch target $(ARGS)

bench-rivals: page ## the same beside other servers, which it installs; half an hour
	bench/rivals/install.sh
	cargo build --release --locked --bin switchboard
	cargo run --release --locked --bin switchboard-bench -- --scratch target --rivals bench/rivals $(ARGS)

torture: page ## fault injection: MINUTES=1 (or SECONDS=20), more flags with ARGS="--seed 1"; docs/reliability.md
	cargo build --release --locked --bin switchboard --bin torture
	target/release/torture --seconds $(or $(SECONDS),$$(($(or $(MINUTES),1) * 60))) $(ARGS)

torture-cluster: page ## the same on three nodes with PostgreSQL and NATS: MINUTES=1, without NATS with ARGS="--bus off"
	cargo build --release --locked --bin switchboard --bin torture
	target/release/torture cluster --seconds $(or $(SECONDS),$$(($(or $(MINUTES),1) * 60))) $(ARGS)

mutations: page ## check that the torture and the simulation catch deliberate bugs; ten minutes
	scripts/mutations.sh

send-path: ## which files run for one message on one node; needs rustup's llvm-tools
	node scripts/send-path.mjs

lint: ## clippy, warnings are errors
	cargo clippy --workspace --all-targets --features simulation,otlp --locked -- -D warnings

fmt: ## format the Rust code
	cargo fmt --all

build: page ## the release binary, with the page in it
	cargo build --release --locked --bin switchboard

dist: ## everything that a release has, in dist/, the same in each run on a commit
	scripts/dist.sh

dist-check: ## test what `make dist` built: it starts, installs, and its checksums fit; root is needed
	scripts/test-dist.sh

dist-twice: ## build a release in two fresh clones and compare the checksums; half an hour
	scripts/test-dist-twice.sh

release: ## set the version, commit and tag: VERSION=1.2.3, only shown with DRY_RUN=1
	@VERSION=$(VERSION) DRY_RUN=$(DRY_RUN) node scripts/release/set-version.mjs

page: packages/web/dist/index.html ## the SDK and the chat page

tidy: ## this repository's own lint rules
	cargo run --quiet --locked -p xtask -- tidy

types: ## generate the SDK's types from the server's
	cargo run --quiet --locked -p xtask -- types

screenshots: page ## take the pictures in docs/screenshots again
	cargo build --locked --bin switchboard
	npm run screenshots -w e2e

clean: ## remove what was built
	cargo clean
	rm -rf dist node_modules packages/*/dist

# The page's sources. Directories are included, because a removed file changes their time; not the packages' own
# directories, in which npm packs and unpacks.
sources := $(shell find packages/client packages/web -mindepth 1 \
  \( -name node_modules -o -name dist -o -name test -o -name README.md -o -name LICENSE \) -prune -o -print)

packages/web/dist/index.html: node_modules/.package-lock.json $(sources)
	npm run build -w packages/client
	npm run build -w packages/web

node_modules/.package-lock.json: package-lock.json
	npm ci --no-audit --no-fund
	@touch $@
