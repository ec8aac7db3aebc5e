.PHONY: fuzz demo demo-down test check unit bench soak test-minimal
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
test-minimal:
	@scripts/minimal-root
soak:
	@scripts/soak $(SOAK)
fuzz:
	@PYTHONPATH=src:tests .venv/bin/python tests/fuzz/stackfile.py $(or $(ARGS),-max_total_time=60)
