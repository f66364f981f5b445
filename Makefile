# Everything a person runs. `make` alone lists it; scripts/ holds what takes more than a line.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

DEMO_MODEL := tests/golden/gemma2-v4
DEMO_INPUT := docs/model-card.jsonl
# builds the command where that has to be, and prints its path
BINARY := scripts/binary.sh --package assay

.PHONY: help demo cuda test check-cuda gpu-trial bench lines fmt clean deps

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

deps: ## check for what the build needs, and install what is missing
	@scripts/deps.sh build

demo: deps ## start a gateway and two shards, and score the model card's conversations through gRPC
	@binary=$$(scripts/stage.sh "build, which takes some minutes the first time" $(BINARY) --profile demo); \
	echo "The model card's question with the right answer and with a wrong one."; \
	echo "The checkpoint's weights are random: the numbers are exact and mean nothing."; \
	scripts/stage.sh demo scripts/demo.sh "$$binary" $(DEMO_MODEL) $(DEMO_INPUT); \
	echo "The binary is $$binary; a real model is --model owner/name, or its folder."

cuda: deps ## build the command for NVIDIA GPUs; what compiles the kernels is fetched where it is missing
	@deploy/cuda/build.sh

test: ## format, lints, licenses and all tests: what CI runs
	@scripts/deps.sh build test
	@[ "$$(id -u)" -ne 0 ] || scripts/deps.sh page || echo "the status page is not tested in a browser" >&2
	@scripts/test.sh

check-cuda: ## lint everything, what is for GPUs too, with kernels that $NVCC compiles, or a stand-in for it
	@NVCC="$${NVCC:-$(CURDIR)/deploy/cuda/nvcc-standin}" cargo clippy --workspace --all-targets --all-features -- -D warnings

gpu-trial: deps ## make target/gpu-trial.tar.xz, which tries and measures everything on a machine with a GPU
	@tests/gpu/archive.sh

bench: deps ## measure speed, beside Hugging Face where python3 has torch and transformers
	@binary=$$(scripts/stage.sh build $(BINARY) --release); \
	scripts/stage.sh "forward pass, assay score" cargo bench --package tests --bench score; \
	scripts/stage.sh "a simulated cluster" \
		cargo bench --package tests --bench cluster-sim -- --gateways 8 --replicas 32 --minutes 2; \
	scripts/deps.sh test; \
	scripts/stage.sh gateway cargo bench --package tests --bench gateway; \
	scripts/stage.sh cluster scripts/bench-cluster.sh "$$binary" $(DEMO_MODEL)

lines: ## count lines of code, tests apart; SINCE=revision compares with it
	@scripts/lines.py $(SINCE)

fmt: ## format the code
	@cargo fmt --all

clean: ## remove what was built
	@cargo clean
