.PHONY: demo demo-down test check unit bench
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
