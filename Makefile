# SPDX-License-Identifier: Apache-2.0
# The front door, thin: every target says what it runs. `make help` lists them.
SHELL := /bin/bash
BUILD ?= build
ASAN_BUILD ?= build-asan
FUZZ_BUILD ?= build-fuzz
FUZZ_SECONDS ?= 600
FUZZERS := safetensors config bundle settings arguments steps products capi capi_layer
LAUNCHER := $(if $(shell command -v ccache),-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
WERROR ?= OFF
CMAKE := cmake -G Ninja $(LAUNCHER) -DMOESAIC_WERROR=$(WERROR)
# Recipes run after `deps`, so the shell looks for the NVRTC that it fetched; a caller's own choice wins.
WITH_NVRTC = f=$(CURDIR)/.deps/cuda/nvidia/cu13/lib/libnvrtc.so.13; \
  if [ -e $$f ]; then export MOESAIC_NVRTC=$${MOESAIC_NVRTC:-$$f}; fi;
JOBS ?= $(shell nproc)

.PHONY: help deps configure build demo test test-gpu asan fuzz bench deb wheel format lint docs facts clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /make \1: /p' Makefile

deps:  ## install what is missing (root on Debian), fetch CUDA headers and NVRTC where there is no toolkit
	@tools/install_deps.sh

configure: deps
	@$(CMAKE) -S . -B $(BUILD) -DCMAKE_BUILD_TYPE=Release

build: configure  ## build everything (Release)
	cmake --build $(BUILD)

demo: configure  ## build, compile kernels for every architecture, run the test checkpoints, print two tables
	cmake --build $(BUILD) --target moesaic_cli
	@$(WITH_NVRTC) tools/demo.py --build $(BUILD)

test: build  ## unit and compile tiers
	@tools/fetch_nvrtc.sh
	@$(WITH_NVRTC) ctest --test-dir $(BUILD) -L 'unit|compile' -j $(JOBS) --output-on-failure --no-tests=error

test-gpu:  ## device tier; needs a GPU
	@if ! ls /dev/nvidia[0-9]* >/dev/null 2>&1; then echo "test-gpu: skipped, this machine has no NVIDIA GPU"; else \
	  $(MAKE) build && { $(WITH_NVRTC) ctest --test-dir $(BUILD) -L device --output-on-failure --no-tests=error; }; fi

asan: deps  ## unit tier under address and undefined-behaviour sanitizers
	@$(CMAKE) -S . -B $(ASAN_BUILD) -DCMAKE_BUILD_TYPE=Sanitize -DMOESAIC_SANITIZE=ON -DMOESAIC_BENCH=OFF
	cmake --build $(ASAN_BUILD) --target unit_tests
	@ctest --test-dir $(ASAN_BUILD) -L unit -j $(JOBS) --output-on-failure --no-tests=error

fuzz: deps  ## parsers and argument checks under libFuzzer, FUZZ_SECONDS each (needs clang)
	@$(CMAKE) -S . -B $(FUZZ_BUILD) -DCMAKE_BUILD_TYPE=Sanitize -DCMAKE_CXX_COMPILER=clang++ -DMOESAIC_FUZZ=ON \
	  -DMOESAIC_BENCH=OFF
	cmake --build $(FUZZ_BUILD) --target $(FUZZERS:=_fuzz)
	@for p in $(FUZZERS); do mkdir -p $(FUZZ_BUILD)/corpus/$$p && \
	  $(FUZZ_BUILD)/tests/fuzz/$${p}_fuzz -max_total_time=$(FUZZ_SECONDS) -timeout=10 -max_len=8192 \
	    $$(ls tests/fuzz/$$p.dict 2>/dev/null | sed s/^/-dict=/) -artifact_prefix=$(FUZZ_BUILD)/ -print_final_stats=1 \
	    $(FUZZ_BUILD)/corpus/$$p tests/data/fuzz/$$p || exit 1; done

wheel: build  ## the Python package, of what `build` built, into BUILD/wheel
	@tools/build_wheel.sh $(BUILD)

bench: build  ## speed of the published layer shapes, on GPU 0 where there is one
	@$(WITH_NVRTC) tools/bench.sh $(BUILD)/moesaic

deb: configure  ## Debian packages of the library, its headers and the command line, in BUILD/deb
	cmake --build $(BUILD) --target deb

format:  ## clang-format in place
	@tools/install_deps.sh --lint
	@tools/format.sh

lint: configure  ## clang-format, tools/check_*, tools/facts, clang-tidy
	@tools/install_deps.sh --lint
	@tools/lint.sh $(BUILD)

docs:  ## the API reference of headers and Python as HTML, any warning a failure: BUILD/docs/html
	@tools/install_deps.sh --docs
	@tools/build_docs.sh $(BUILD)

facts: configure  ## write what README.md and docs/ repeat of the code's tables; lint compares it
	cmake --build $(BUILD) --target moesaic_cli
	@tools/facts $(BUILD)/moesaic --write

clean:
	rm -rf $(BUILD) $(ASAN_BUILD) $(FUZZ_BUILD)
