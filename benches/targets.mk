# Benches beside `make bench`. Each writes its tables into docs/PERFORMANCE.md.
.PHONY: bench-hot bench-sched bench-cold
bench-hot:
	cargo bench --bench hot -- --write $(BENCH_FLAGS)
bench-sched:
	cargo bench --bench sched -- --write $(BENCH_FLAGS)
bench-cold:
	cargo bench --bench cold -- --write $(BENCH_FLAGS)
