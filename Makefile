# Names only: what they do is in the scripts, in npm and in cargo.

# What a build that failed has begun is not taken for its result.
.DELETE_ON_ERROR:

.PHONY: help run test quick soak simulate fuzz autobahn bench bench-rivals torture torture-cluster mutations lint fmt build page tidy types screenshots clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

run: page ## a development server; more flags with ARGS="--listen 127.0.0.1:9600"
	cargo run --release --locked --bin switchboard -- dev $(ARGS)

test: ## everything that CI checks
	scripts/test.sh

quick: ## the inner loop: unit and integration tests of Rust alone, within two minutes once built
	cargo test --workspace --lib --bins --locked
	cargo test -p switchboard-server --test it --locked

soak: ## attacks and loads at full size, one after the other; one of them with ARGS="soak::door"
	cargo test --release --locked -p switchboard-server --test it -- --ignored --nocapture --test-threads 1 $(or $(ARGS),soak::)

simulate: ## the server in a world that a seed decides: SEEDS=10000, from FIRST=0 on; SEED=7 tells one story
	SEED=$(SEED) FIRST=$(FIRST) SEEDS=$(SEEDS) cargo test --profile simulation --locked -p switchboard-server \
	  --test simulation -- --ignored --nocapture

fuzz: ## every fuzz target for a minute; another time in seconds, and targets, with ARGS="600 log"
	scripts/fuzz.sh $(ARGS)

autobahn: ## the framing against Autobahn's WebSocket cases, where WSTEST or PATH has wstest
	scripts/autobahn.sh $(ARGS)

bench: page ## the server against what the machine can do; about 9 minutes, more flags with ARGS="fanout --rounds 1"
	cargo run --release --locked --bin switchboard -- bench --scratch target $(ARGS)

bench-rivals: page ## the same, and other servers beside it, which it installs; half an hour
	bench/rivals/install.sh
	cargo run --release --locked --bin switchboard -- bench --scratch target --rivals bench/rivals $(ARGS)

torture: page ## the server under attack: MINUTES=1 (or SECONDS=20), more flags with ARGS="--seed 1"; docs/reliability.md
	cargo build --release --locked --bin switchboard --bin torture
	target/release/torture --seconds $(or $(SECONDS),$$(($(or $(MINUTES),1) * 60))) $(ARGS)

torture-cluster: page ## three nodes on PostgreSQL and NATS under attack: MINUTES=1, without NATS with ARGS="--bus off"; docs/reliability.md
	cargo build --release --locked --bin switchboard --bin torture
	target/release/torture cluster --seconds $(or $(SECONDS),$$(($(or $(MINUTES),1) * 60))) $(ARGS)

mutations: page ## whether the torture catches deliberate bugs; ten minutes
	scripts/mutations.sh

lint: ## clippy, warnings are errors
	cargo clippy --workspace --all-targets --locked -- -D warnings

fmt: ## format the Rust code
	cargo fmt --all

build: page ## the release binary, with the page in it
	cargo build --release --locked --bin switchboard

page: packages/web/dist/index.html ## the SDK and the chat page

tidy: ## the rules that no linter knows
	cargo run --quiet --locked -p xtask -- tidy

types: ## the SDK's types, from those of the server
	cargo run --quiet --locked -p xtask -- types

screenshots: page ## the pictures in docs/screenshots, made anew
	cargo build --locked --bin switchboard
	npm run screenshots -w e2e

clean: ## remove what was built
	cargo clean
	rm -rf node_modules packages/*/dist

# What the page is made of. A directory counts too: a file that goes changes it. Not so the packages' own, in which npm
# packs and unpacks.
sources := $(shell find packages/client packages/web -mindepth 1 \
  \( -name node_modules -o -name dist -o -name test -o -name README.md -o -name LICENSE \) -prune -o -print)

packages/web/dist/index.html: node_modules/.package-lock.json $(sources)
	npm run build -w packages/client
	npm run build -w packages/web

node_modules/.package-lock.json: package-lock.json
	npm ci --no-audit --no-fund
	@touch $@
