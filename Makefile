# What a person does with this checkout. Every target that builds makes the machine ready first (see scripts/setup.sh).
.DEFAULT_GOAL := help
.PHONY: help setup build demo demo-compile test bench soak fuzz clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /  make \1\t/p' Makefile | expand -t 21

setup: ## make this machine ready: Debian packages, Rust, RocksDB
	@scripts/setup.sh

build: setup ## bin/provender and bin/provenderd
	@scripts/in-target.sh scripts/build.sh

demo: ## a collage by `provender dag run`, thrice (KEEP=1 leaves it running, META=postgres runs it on PostgreSQL)
	@scripts/setup.sh demo $(META)
	@scripts/in-target.sh scripts/build.sh
	@KEEP="$(KEEP)" META="$(META)" scripts/demo.py

demo-compile: ## zstd by `provender run`, one key a file, twice (KEEP and META as above)
	@scripts/setup.sh $(META)
	@scripts/in-target.sh scripts/build.sh
	@KEEP="$(KEEP)" META="$(META)" scripts/demo_compile.py

test: ## formatting, lints, every test, docs; one count at the end
	@scripts/setup.sh test
	@scripts/in-target.sh scripts/test.sh

bench: ## ratios against the same work done without provender
	@scripts/setup.sh test
	@scripts/in-target.sh cargo bench --locked --profile dev --workspace --bench '*'

soak: ## all tests over and over, with more cases (MINUTES=30)
	@scripts/setup.sh test
	@MINUTES="$(MINUTES)" scripts/in-target.sh scripts/soak.sh

fuzz: setup ## a target of fuzz/ (TARGET=dag_file MINUTES=10), with a nightly compiler
	@scripts/fuzz.sh "$(or $(TARGET),dag_file)" "$(or $(MINUTES),10)"

clean: ## remove what was built of provender itself; its dependencies stay, in the folder that all checkouts share
	@if [ -e .cargo/config.toml ]; then scripts/in-target.sh cargo clean --workspace; fi
	@rm -rf bin
