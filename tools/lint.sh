#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Everything that reads the source without running its tests; `make lint` and the hooks of .pre-commit-config.yaml run
# these steps. Usage: tools/lint.sh BUILD_FOLDER [STEP [FILE...]] (configured; files: of step tidy), or --steps
set -euo pipefail
cd "$(dirname "$0")/.."
steps=(format rules types facts tidy)

format() { tools/format.sh --check; }

rules() {
  local check failed=0
  for check in tools/check_*.py; do
    python3 "$check" || failed=1
  done
  return "$failed"
}

# torch and ml_dtypes, where they are installed, are not looked into: pyproject.toml.
types() { mypy --no-error-summary python/moesaic; }

# What the documents repeat of the code is compared with the executable.
facts() {
  cmake --build "$build" --target moesaic_cli
  tools/facts "$build/moesaic"
}

# A header is looked at by way of the file of its name, else of one that includes it.
translation_unit_of() {
  local own=${1%.*}.cc including
  if [[ "$1" == *.cc || -e "$own" ]]; then
    echo "$own"
    return
  fi
  including=$(grep -rlF "#include \"${1#*/}\"" src | sort | head -n 1)
  if [[ -n "$including" ]]; then translation_unit_of "$including"; else echo "$1"; fi
}

tidy() {
  local start=$SECONDS
  local file files=()
  # The analyzer takes two thirds of the time: of all files it follows fewer calls and paths than of those that changed.
  local depth=deep
  if (($#)); then mapfile -t files < <(for file in "$@"; do translation_unit_of "$file"; done | sort -u); fi
  ((${#files[@]})) || { depth=shallow && mapfile -t files < <(find src -name '*.cc' | sort); }
  local analyzer=(--extra-arg={-Xclang,-analyzer-config,-Xclang,mode=$depth})
  echo "clang-tidy: ${#files[@]} files, $depth"
  printf '%s\0' "${files[@]}" |
    xargs -0 -r -P "$(nproc)" -n 1 clang-tidy --quiet -p "$build" --extra-arg=-Wno-unknown-warning-option "${analyzer[@]}" \
      2> >(grep -v 'warnings generated' >&2)
  echo "clang-tidy: clean in $((SECONDS - start)) s"
}

if [[ "${1:-}" == --steps ]]; then
  printf '%s\n' "${steps[@]}"
  exit
fi
build=$1
shift
if [[ ! -e "$build/compile_commands.json" ]]; then
  echo "lint: $build is not configured: run \`make configure\`" >&2
  exit 1
fi
if (($#)); then
  if [[ " ${steps[*]} " != *" $1 "* ]]; then
    echo "lint: no step $1; steps: ${steps[*]}" >&2
    exit 2
  fi
  "$@"
else
  for step in "${steps[@]}"; do "$step"; done
fi
