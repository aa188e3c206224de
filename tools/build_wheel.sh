#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Packs what a build folder holds and python/moesaic into a wheel, in an environment of its own (what builds it comes
# from PyPI). Usage: tools/build_wheel.sh BUILD_FOLDER
set -euo pipefail
cd "$(dirname "$0")/.."
build=$(realpath "$1")
python3 -m venv "$build/wheel-env"
"$build/wheel-env/bin/python" -m pip install -q -r tools/wheel_requirements.txt
rm -rf "$build/wheel"
"$build/wheel-env/bin/python" -m pip wheel -q --no-deps --no-build-isolation -w "$build/wheel" . \
  -C "cmake.define.MOESAIC_PREBUILT=$build" -C "build-dir=$build/wheel-cmake"
ls "$build"/wheel/*.whl
