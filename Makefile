.PHONY: demo demo-down test check unit bench test-minimal
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
