#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Packs what a build folder holds and python/moesaic into a wheel, in an environment of its own (scikit-build-core comes
# from PyPI). Usage: tools/build_wheel.sh BUILD_FOLDER
set -euo pipefail
cd "$(dirname "$0")/.."
build=$(realpath "$1")
backend=$(sed -n 's/^BACKEND = "\(.*\)"$/\1/p' python/tests/wheel_test.py)
python3 -m venv "$build/wheel-env"
"$build/wheel-env/bin/python" -m pip install -q "$backend" ninja
rm -rf "$build/wheel"
"$build/wheel-env/bin/python" -m pip wheel -q --no-deps --no-build-isolation -w "$build/wheel" . \
  -C "cmake.define.MOESAIC_PREBUILT=$build" -C "build-dir=$build/wheel-cmake"
ls "$build"/wheel/*.whl
