.PHONY: fuzz demo demo-down test check unit bench bench-engine soak leaks test-minimal
demo:
	@scripts/demo
demo-down:
	@scripts/demo down
test:
	@scripts/test
check:
	@scripts/test check
unit:
	@scripts/test unit
bench:
	@scripts/bench
bench-engine:
	@scripts/bench engine $(BENCH)
test-minimal:
	@scripts/minimal-root
soak:
	@scripts/soak $(SOAK)
leaks:
	@scripts/leaks $(LEAKS)
fuzz:
	@PYTHONPATH=src:tests .venv/bin/python tests/fuzz/stackfile.py $(or $(ARGS),-max_total_time=60)
