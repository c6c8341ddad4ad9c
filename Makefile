# The commands of the project; CONTRIBUTING.md has the finer ones.
#   MODEL=/path/to.gguf   another model than the demo model (demo, serve, test)
#   JOBS=N                parallel compilations

SHELL := /bin/bash
JOBS ?= $(shell nproc)
export MODEL

.DEFAULT_GOAL := help
.PHONY: help setup build demo serve test check-operations format clean

help: ## This list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 28

setup: ## Install missing packages (apt, as root or through sudo)
	@scripts/setup.sh

build: ## Compile to build/release/winnow
	cmake --preset release
	cmake --build build/release -j $(JOBS)

demo: setup ## Set up, build, serve the demo model, stream one completion, stop
	@$(MAKE) --no-print-directory build
	@scripts/demo.sh

serve: setup ## As demo, but keeps serving: gRPC on ADDRESS (127.0.0.1:50051), metrics on METRICS_ADDRESS
	@$(MAKE) --no-print-directory build
	@scripts/serve.sh

test: setup ## Set up, build, run all tests
	@scripts/test.sh $(JOBS)

check-operations: setup ## Check chart, dashboards, alerts and load tests (needs Go, or fetches it from PyPI)
	@$(MAKE) --no-print-directory build
	@scripts/check_operations.sh

format: ## Format all C++ files
	@scripts/check_format.sh --fix

clean: ## Remove build/
	rm -rf build
