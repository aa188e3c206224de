#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Unpacks pinned wheels from PyPI into a folder, whole or not at all; needs no virtual environment.
# Usage: tools/fetch_wheels.sh FOLDER PACKAGE==VERSION...
set -euo pipefail
folder=$1
shift
mkdir -p "$(dirname "$folder")"
work=$(mktemp -d "$folder.XXXXXX")
trap 'rm -rf "$work"' EXIT
if ! python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest "$work/wheels" "$@"; then
  echo "fetch_wheels: pip could not download $*; with a CUDA toolkit (12.8 or later) at CUDA_HOME none is needed" >&2
  exit 1
fi
for wheel in "$work"/wheels/*.whl; do python3 -m zipfile -e "$wheel" "$work/tree"; done
find "$work/tree" -path '*/bin/*' -type f -exec chmod +x {} +  # zipfile forgets it
rm -rf "$folder"
mv "$work/tree" "$folder"
