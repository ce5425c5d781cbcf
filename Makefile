# Names only: what they do is in the scripts and in cargo.

.PHONY: help run test lint fmt build tidy clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

run: ## a development server; more flags with ARGS="--listen 127.0.0.1:9600"
	cargo run --release --locked --bin switchboard -- dev $(ARGS)

test: ## everything that CI checks
	scripts/test.sh

lint: ## clippy, warnings are errors
	cargo clippy --workspace --all-targets --locked -- -D warnings

fmt: ## format the Rust code
	cargo fmt --all

build: ## the release binary
	cargo build --release --locked --bin switchboard

tidy: ## the rules that no linter knows
	cargo run --quiet --locked -p xtask -- tidy

clean: ## remove what was built
	cargo clean
