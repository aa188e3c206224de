#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs what the build needs, and nothing that is there already: Debian packages, and, where no CUDA toolkit lies
# about, its headers and NVRTC from PyPI into .deps/cuda. Usage: tools/install_deps.sh [--lint | --docs]
# Environment: MOESAIC_CUDA_INCLUDE or CUDA_HOME name a toolkit in an unusual place.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(cmake ninja-build g++ libfmt-dev libcli11-dev nlohmann-json3-dev libminizip-dev zlib1g-dev libssl-dev
          libhwy-dev libdlpack-dev libgtest-dev libbenchmark-dev python3 python3-pip python3-venv
          python3-numpy python3-pytest  # the Python package's tests; one installs its wheel in an environment
          pkgconf  # a test builds a program by the installed moesaic.pc
          dpkg-dev file help2man lintian)  # make deb, and the tests of packages
if [[ "${1:-}" == --lint ]]; then packages+=(clang-format clang-tidy universal-ctags mypy); fi
if [[ "${1:-}" == --docs ]]; then packages=(doxygen); fi

install_packages() {
  if ! command -v dpkg-query >/dev/null; then
    echo "install_deps: not a Debian system; CMake will say what is missing of: ${packages[*]}"
    return
  fi
  local missing=() package
  for package in "${packages[@]}"; do
    [[ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" == installed ]] || missing+=("$package")
  done
  ((${#missing[@]})) || return 0
  if [[ $EUID -ne 0 ]]; then
    echo "install_deps: missing packages; as root: apt-get install ${missing[*]}" >&2
    exit 1
  fi
  echo "install_deps: installing ${missing[*]}"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# A folder with cuda.h of 12.8 or later and nvrtc.h.
usable_headers() {
  local version
  [[ -f "$1/nvrtc.h" && -f "$1/cuda.h" ]] || return 1
  version=$(sed -n 's/^#define CUDA_VERSION \([0-9]*\).*/\1/p' "$1/cuda.h")
  [[ "${version:-0}" -ge 12080 ]]
}

has_toolkit() {
  local root
  for root in "${MOESAIC_CUDA_INCLUDE:+$(dirname "$MOESAIC_CUDA_INCLUDE")}" "${CUDA_HOME:-}" /usr/local/cuda \
              .deps/cuda/nvidia/cu13; do
    [[ -n "$root" ]] && usable_headers "$root/include" || continue
    compgen -G "$root/lib64/libnvrtc.so*" >/dev/null || compgen -G "$root/lib/libnvrtc.so*" >/dev/null || continue
    echo "install_deps: CUDA headers and NVRTC: $root"
    return 0
  done
  return 1
}

install_packages
if [[ "${1:-}" == --docs ]]; then exit; fi
if ! has_toolkit; then
  echo "install_deps: no CUDA toolkit of 12.8 or later; fetching its headers and NVRTC from PyPI into .deps/cuda"
  tools/fetch_wheels.sh .deps/cuda nvidia-cuda-runtime==13.0.88 nvidia-cuda-nvrtc==13.0.88
fi
