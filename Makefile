# Everything heavy (servers, RocksDB, build products) lives outside of the checkout: scripts/env.sh.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

BLUE ?= 13
GREEN ?= 17
ENGINE ?= postgres
ROUTER ?=
ARGS ?=
NAME ?=
RUNS ?=
SEEDS ?=
SEED ?=
AT ?=
ONLY ?=
MINUTES ?=
BENCH_BLUE ?= 15
BENCH_GREEN ?= 17
export BENCH_BLUE BENCH_GREEN ENGINE ROUTER

ENV := . scripts/env.sh &&

.PHONY: help demo test test-long sim chaos unseen intruder build docs docs-update setup fmt lint bench clean-cache toolchain

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@printf '\n  make demo BLUE=10 GREEN=18     any two of PostgreSQL 10-18\n'
	@printf '  make demo ENGINE=mariadb       MariaDB 10.11 to 11.8; ENGINE=mysql: MySQL 9.7 to 9.7; ROUTER=haproxy: not through our own proxy\n'
	@printf "  make test ARGS='-E test(lag)'  arguments for cargo nextest (or cargo test)\n"

DEMO_postgres = --blue $(BLUE) --green $(GREEN)
DEMO_mariadb = $(if $(ROUTER),--router $(ROUTER))
DEMO_mysql = $(DEMO_mariadb)
DEMO_SERVERS_postgres = servers $(BLUE) $(GREEN)
DEMO_SERVERS_mariadb = mysql
DEMO_SERVERS_mysql = mysql

demo: toolchain ## A live database moves to a newer version under load: BLUE=13 GREEN=17, or ENGINE=mariadb
	@[ -n "$(DEMO_SERVERS_$(ENGINE))" ] || { echo "demo: no ENGINE=$(ENGINE); there are postgres, mariadb, mysql" >&2; exit 2; }
	@scripts/setup packages $(DEMO_SERVERS_$(ENGINE)) rocksdb
	@$(ENV) cargo build --workspace --bins
	@$(ENV) cargo run --quiet -p tests --bin demo -- --engine $(ENGINE) $(DEMO_$(ENGINE)) $(ARGS)

test: toolchain ## The tests, on real servers of all versions
	@scripts/setup
	@$(ENV) cargo build --workspace --bins
	@$(ENV) cargo test --quiet --workspace --doc
	@$(ENV) . scripts/memory.sh && if cargo nextest --version >/dev/null 2>&1; \
		then cargo nextest run --workspace $(ARGS); \
		else cargo test --workspace --lib --bins --tests $(ARGS); fi

test-long: toolchain ## What make test leaves out: further pairs of versions and second engines of the same tests
	@scripts/setup
	@$(ENV) cargo build --workspace --bins
	@$(ENV) . scripts/memory.sh && cargo nextest run --workspace --no-fail-fast --ignore-default-filter -E 'not default()' $(ARGS)

sim: toolchain ## Cutovers and rollbacks with everything that can go wrong, in memory: RUNS=100000 SEED=1
	@$(ENV) SIM_RUNS=$(or $(RUNS),100000) SIM_SEED=$(or $(SEED),1) \
		cargo test --quiet -p cutover --lib no_history_ends_wrong -- --nocapture

CHAOS_SERVERS_postgres = servers 10 11 12 13 14 15 16 17 18
CHAOS_SERVERS_mariadb = mysql
CHAOS_SERVERS_mysql = mysql

chaos: toolchain ## Cutovers and rollbacks of real servers while all goes wrong: ENGINE=mysql RUNS=300 SEED=1 AT=0 ONLY='kill -9 router'
	@[ -n "$(CHAOS_SERVERS_$(ENGINE))" ] || { echo "chaos: no ENGINE=$(ENGINE); there are postgres, mariadb, mysql" >&2; exit 2; }
	@scripts/setup packages $(CHAOS_SERVERS_$(ENGINE)) rocksdb >&2
	@$(ENV) cargo build --workspace --bins >&2
	@$(ENV) $$CARGO_TARGET_DIR/debug/chaos --engine $(ENGINE) --runs $(or $(RUNS),300) --seed $(or $(SEED),1) --at $(or $(AT),0) \
		$(if $(ONLY),--only '$(ONLY)') $(if $(MINUTES),--minutes $(MINUTES))

UNSEEN_SERVERS_postgres = servers 13 15 17 18
UNSEEN_SERVERS_mariadb = mysql
UNSEEN_SERVERS_mysql = mysql

unseen: toolchain ## Blue's catalog, rights and settings change in every way, then a cutover is tried: SEEDS=300 SEED=1 AT=0 ONLY=partition ALONE=1 ENGINE=mariadb
	@[ -n "$(UNSEEN_SERVERS_$(ENGINE))" ] || { echo "unseen: no ENGINE=$(ENGINE); there are postgres, mariadb, mysql" >&2; exit 2; }
	@scripts/setup packages $(UNSEEN_SERVERS_$(ENGINE)) rocksdb >&2
	@$(ENV) cargo build --workspace --bins >&2
	@$(ENV) $$CARGO_TARGET_DIR/debug/unseen --engine $(ENGINE) --runs $(or $(SEEDS),$(RUNS),300) --seed $(or $(SEED),1) --at $(or $(AT),0) $(if $(ONLY),--only '$(ONLY)') $(if $(ALONE),--alone)

intruder: toolchain ## Users of the databases and of the host try what they may not: ARGS='--pair 14:18'
	@scripts/setup packages servers 14 15 16 17 18 mysql rocksdb >&2
	@$(ENV) cargo build --workspace --bins >&2
	@$(ENV) $$CARGO_TARGET_DIR/debug/intruder $(ARGS)

build: toolchain ## The programs `replicator` and `cutover`, optimized, in $CARGO_TARGET_DIR/release
	@scripts/setup packages rocksdb
	@$(ENV) cargo build --release -p replicator -p cutover --bins

docs: toolchain ## The documents as a book with search, in book/index.html
	@scripts/setup mdbook >&2
	@scripts/book

docs-update: toolchain ## Write the pages of docs/ that are made from the code
	@scripts/setup packages rocksdb >&2
	@$(ENV) cargo build --workspace --bins
	@$(ENV) UPDATE_DOCS=1 cargo test --quiet --workspace --test docs

setup: ## Packages, database servers and RocksDB; what is there stays
	@scripts/setup

fmt: toolchain ## Format the code
	@cargo fmt --all

lint: toolchain ## Formatting, clippy, alert rules, shell scripts, docker-compose.yml
	@scripts/lint

# The harness only waits and counts: it is built as the tests are. What is measured is optimized.
bench: toolchain ## The replicator beside its peers, optimized: NAME=catchup_tpcb, or all
	@$(ENV) names="$(NAME)"; suite="$$names"; \
	for decode in decode_pgoutput decode_binlog; do \
		suite="$${suite//$$decode/}"; \
		if [[ -z "$$names" || "$$names" == *$$decode* ]]; then \
			scripts/setup packages rocksdb $$([ $$decode = decode_pgoutput ] || echo mysql) >&2; \
			cargo bench -p decoders --bench $$decode; fi; done; \
	if [ -n "$${suite// /}" ] || [ -z "$$names" ]; then \
		scripts/setup packages servers $(BENCH_BLUE) $(BENCH_GREEN) rocksdb pgcopydb >&2; \
		case "$${suite:-mysql} $(ENGINE)" in *mysql*|*mariadb*) scripts/setup mysql >&2 ;; esac; \
		case "$${suite:-backfill_mariadb}" in *backfill_mariadb*) scripts/setup mydumper >&2 || true ;; esac; \
		case " $${suite:-verify_full} " in *verify_full*) scripts/setup data-diff >&2 || true ;; esac; \
		cargo build --release -p replicator -p cutover --bins; \
		CUTOVER_BIN=$$CARGO_TARGET_DIR/release cargo bench --profile dev -p tests --bench suite -- $$suite; fi

clean-cache: ## Delete what was downloaded and built (the next run takes minutes again)
	@$(ENV) rm -rf "$$CUTOVER_CACHE"/{target,rocksdb,setup.lock,apt-update.log} "$$CUTOVER_SERVERS"/{pg,pgclient,pgbouncer,pgcopydb,mydumper}

toolchain:
	@command -v cargo >/dev/null || { \
		echo "cargo is not in PATH. Install Rust 1.95 or newer from https://rustup.rs, then: . ~/.cargo/env" >&2; exit 1; }
