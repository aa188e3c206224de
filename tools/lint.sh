#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Everything that reads the source without running it: the tools/check_* rules, then clang-tidy over src/.
# Usage: tools/lint.sh BUILD_FOLDER (configured: clang-tidy reads its compile_commands.json)
set -euo pipefail
cd "$(dirname "$0")/.."
build=$1
failed=0
for check in tools/check_*.py; do
  python3 "$check" || failed=1
done
((failed == 0)) || exit 1

echo "clang-tidy: src/"
start=$SECONDS
find src -name '*.cc' -print0 | sort -z |
  xargs -0 -r -P "$(nproc)" -n 1 clang-tidy --quiet -p "$build" --extra-arg=-Wno-unknown-warning-option \
    2> >(grep -v 'warnings generated' >&2)
echo "clang-tidy: clean in $((SECONDS - start)) s"
