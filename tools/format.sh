#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Formats every C++ and device text in place; with --check only says which differ (exit 1).
set -euo pipefail
cd "$(dirname "$0")/.."
options=(-i)
if [[ "${1:-}" == --check ]]; then options=(--dry-run --Werror); fi
find bench examples include kernels src tests \( -name '*.cc' -o -name '*.h' -o -name '*.c' -o -name '*.cuh' \) -print0 |
  xargs -0 -r -P "$(nproc)" -n 8 clang-format "${options[@]}"
