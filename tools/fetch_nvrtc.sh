#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Fetches what the compile tests need beside a toolkit's headers (pinned wheels from PyPI): the two NVRTC versions that
# they hold against each other into .deps/nvrtc13 and .deps/nvrtc12, the disassembler that they read machine code with
# into .deps/nvdisasm. Without network the tests that need them are skipped and say so.
set -uo pipefail
cd "$(dirname "$0")/.."
fetch() {  # FOLDER LIBRARY PACKAGE==VERSION
  [ -e ".deps/$1/$2" ] || tools/fetch_wheels.sh ".deps/$1" "$3" || echo "fetch_nvrtc: tests with $3 will be skipped" >&2
}
fetch nvrtc13 nvidia/cu13/lib/libnvrtc.so.13 nvidia-cuda-nvrtc==13.0.88
fetch nvrtc12 nvidia/cuda_nvrtc/lib/libnvrtc.so.12 nvidia-cuda-nvrtc-cu12==12.9.86
fetch nvdisasm nvidia/cu13/bin/nvdisasm nvidia-cuda-nvdisasm==13.2.86
