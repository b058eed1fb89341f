# What a person does with this checkout. Every target that builds makes the machine ready first (see scripts/setup.sh).
.DEFAULT_GOAL := help
.PHONY: help setup build demo test bench soak clean

help: ## this list
	@sed -n 's/^\([a-z]*\):[^#]*## /  make \1\t/p' Makefile | expand -t 16

setup: ## make this machine ready: Debian packages, Rust, RocksDB
	@scripts/setup.sh

build: setup ## bin/provender and bin/provenderd
	@scripts/in-target.sh scripts/build.sh

demo: ## compile zstd by `provender run`, twice (KEEP=1 leaves it running, META=postgres runs it on PostgreSQL)
	@scripts/setup.sh $(META)
	@scripts/in-target.sh scripts/build.sh
	@KEEP="$(KEEP)" META="$(META)" scripts/demo.py

test: ## formatting, lints, every test, docs; one count at the end
	@scripts/setup.sh test
	@scripts/in-target.sh scripts/test.sh

bench: setup ## ratios against the same work done without provender
	@scripts/in-target.sh cargo bench --locked --profile dev --workspace --bench '*'

soak: ## all tests over and over, with more cases (MINUTES=30)
	@scripts/setup.sh test
	@MINUTES="$(MINUTES)" scripts/in-target.sh scripts/soak.sh

clean: ## remove what was built of provender itself; its dependencies stay, in the folder that all checkouts share
	@if [ -e .cargo/config.toml ]; then scripts/in-target.sh cargo clean --workspace; fi
	@rm -rf bin
