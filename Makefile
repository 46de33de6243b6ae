# What one needs every day; `make` alone says what there is.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

FN_PORT ?= 8080
export FN_PORT
URL := http://127.0.0.1:$(FN_PORT)
TARGET := $(or $(CARGO_TARGET_DIR),target)
HOB := $(TARGET)/release/hob
FUNCTIONS := hello echo hostile probe mirror
HOST := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')

.PHONY: help run test conformance counts layout fuzz check bench bench-hot bench-place bench-scale bench-sched bench-cold bench-import bench-calls perf static doc clean functions

help:
	@echo "make run      build, start hob in the foreground with a first function deployed (FN_PORT=$(FN_PORT))"
	@echo "make test     every test, on the real container engine"
	@echo "make conformance  answers of a server against docs/openapi.yaml (part of make test)"
	@echo "make counts   instructions of a hot call's pure parts against what they were (part of make test)"
	@echo "make layout   lay the functions of the program that are used side by side (less resident memory)"
	@echo "make fuzz     random bytes for every parser, 10 s each (FUZZ_SECONDS)"
	@echo "make check    formatting, lints, tests, documentation"
	@echo "make bench    all of the following (BENCH_FLAGS=--quick: under 4 minutes)"
	@echo "make bench-hot    a hot call through hob, through nginx and direct; calls at a constant rate"
	@echo "make bench-place  what choosing a call's CPU would be worth"
	@echo "make bench-scale  connections, registered and hot functions: threads, memory, cost of a call"
	@echo "make bench-sched  bursts, overload, fairness, freezing, evictions"
	@echo "make bench-cold   calls without a container, beside the bare engine"
	@echo "make bench-import 10,000 functions: creates, lists, calls, start"
	@echo "make bench-calls  records of calls and detached calls"
	@echo "make perf     a flame graph of a running hob, FN=app/function with calls of it"
	@echo "make static   one static program, $(TARGET)/$(HOST)/release/hob"
	@echo "make doc      the code's documentation"
	@echo "make clean    remove what was built, and ./data"

# The server keeps the terminal: its end is make's end, with its exit code.
# Beside it one subshell waits for the port and deploys the first function.
run:
	cargo build --release --bin hob
	cd functions/hello && cargo build --release
	@exec bash tools/run "$(HOB)" "$(URL)"

# Static programs for tests and benches, at one known place.
functions:
	@mkdir -p $(TARGET)/functions
	@for name in $(FUNCTIONS); do \
	  ( cd functions/$$name && CARGO_TARGET_DIR=$(abspath $(TARGET))/functions-build cargo build --release --quiet ); \
	  install -m 755 $(TARGET)/functions-build/release/$$name $(TARGET)/functions/$$name; \
	done

test: functions
	cd functions/fdk && CARGO_TARGET_DIR=$(abspath $(TARGET))/functions-build cargo test
	cargo test
	HOB_DRIVER=sandbox cargo test --test it -- --skip tidy:: --skip settings:: --skip parked:: --skip faults:: --skip escape::
	$(MAKE) counts
	tools/podman-suite
	$(MAKE) conformance

# No clock: callgrind counts. BLESS=--bless writes tools/counts/expected.txt anew.
counts:
	tools/count $(abspath $(TARGET))/functions-build $(BLESS)

# Runs the release build under callgrind, and writes tools/layout.ld anew: where its
# functions lie. Before a release, after much has changed.
layout: functions
	cargo build --release --bin hob
	tools/layout $(HOB) $(TARGET)/functions/echo
	cargo build --release --bin hob

# Asks a server what docs/openapi.yaml says, and compares the answers.
conformance: functions
	cargo build --bin hob
	tools/conformance $(TARGET)/debug/hob $(TARGET)/functions/echo $(TARGET)

# On the stable toolchain; needs g++ for the fuzzer itself. docs/TESTING.md.
fuzz:
	@tools/fuzz $(FUZZ_TARGETS)

check: functions
	cargo fmt --check
	for name in fdk $(FUNCTIONS); do ( cd functions/$$name && cargo fmt --check && CARGO_TARGET_DIR=$(abspath $(TARGET))/functions-build cargo clippy --quiet --all-targets -- -D warnings ); done
	cargo clippy --all-targets -- -D warnings
	$(MAKE) test
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps

# Each writes its tables into docs/PERFORMANCE.md, the same as JSON and its plots
# into docs/bench; BENCH_FLAGS=--quick or --full. One that fails stops none of the
# others, but fails the whole.
bench:
	@failed=; for bench in hot open place sched cold sandbox import scale calls; do \
	  cargo bench --bench $$bench -- --write $(BENCH_FLAGS) || failed="$$failed $$bench"; \
	done; [ -z "$$failed" ] || { echo "make bench: failed:$$failed; what each said stands above"; exit 1; }

bench-hot:
	cargo bench --bench hot -- --write $(BENCH_FLAGS)
	cargo bench --bench open -- --write $(BENCH_FLAGS)

bench-place:
	cargo bench --bench place -- --write $(BENCH_FLAGS)

bench-scale:
	cargo bench --bench scale -- --write $(BENCH_FLAGS)

bench-sched:
	cargo bench --bench sched -- --write $(BENCH_FLAGS)

bench-import:
	cargo bench --bench import -- --write $(BENCH_FLAGS)

bench-cold:
	cargo bench --bench cold -- --write $(BENCH_FLAGS)
	cargo bench --bench sandbox -- --write $(BENCH_FLAGS)

bench-calls:
	cargo bench --bench calls -- --write $(BENCH_FLAGS)

# Needs `perf`. FN=app/function puts calls of it on the server meanwhile.
perf:
	@tools/perf $(if $(FN),--fn $(FN)) $(PERF_FLAGS)

static:
	RUSTFLAGS='-C target-feature=+crt-static -C force-frame-pointers=yes' cargo build --release --bin hob --target $(HOST)
	@ldd $(TARGET)/$(HOST)/release/hob 2>&1 | grep -q 'statically linked\|not a dynamic' || { echo "$(TARGET)/$(HOST)/release/hob is not static"; exit 1; }
	@$(TARGET)/$(HOST)/release/hob --version
	@ls -l $(TARGET)/$(HOST)/release/hob

doc:
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --document-private-items

clean:
	cargo clean
	rm -rf data functions/*/target
