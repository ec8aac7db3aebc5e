.PHONY: demo demo-down test check unit bench soak test-minimal
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
