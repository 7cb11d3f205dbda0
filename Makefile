# Strongroom: what there is to do. `make help` lists it. CARGO_TARGET_DIR is honoured everywhere.

CARGO ?= cargo
.DEFAULT_GOAL := help
.PHONY: help build test soak bench demo status lint deny fmt

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 16

build: ## the release binary, target/release/strongroom, its symbols in strongroom.debug beside it
	scripts/install-deps --build
	$(CARGO) build --release --locked
	scripts/split-symbols $(or $(CARGO_TARGET_DIR),target)/release/strongroom

test: ## all tests, with real machines under libvirt (root, Debian 12; installs what is missing)
	scripts/test

soak: ## what proves by numbers, with all of them (hours); PART=kills: a part of it, PART=list: which there are
	scripts/soak $(PART)

bench: ## the benchmarks against peers; writes bench/results.md, results.json, far.json, service.txt
	scripts/install-deps --build --bench
	commit=$$(scripts/last-green begin) \
	    && bench/run \
	    && bench/far.py \
	    && bash -o pipefail -c "bench/service.py --strongroom $(or $(CARGO_TARGET_DIR),target)/release/strongroom | tee bench/service.txt" \
	    && scripts/last-green end bench "$$commit" bench/results.md bench/results.json bench/far.json bench/service.txt

demo: ## a machine is backed up, destroyed and brought back (root, Debian 12; installs what is missing); PART=az, PART=all: more
	scripts/demo $(PART)

status: ## on which commit test, demo, soak and bench last passed whole, and what has changed since
	@scripts/last-green status

lint: ## formatting, the rules of the architecture and clippy, as the CI wants them
	$(CARGO) fmt --all --check
	$(CARGO) test --quiet --locked -p strongroom-architecture
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

deny: ## licences, sources and banned crates of all dependencies (and known vulnerabilities, where their database is)
	scripts/deny

fmt: ## formats all code
	$(CARGO) fmt --all
