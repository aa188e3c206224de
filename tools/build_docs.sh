#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Writes the API reference of include/moesaic and, where there is one, of python/moesaic to BUILD_FOLDER/docs/html by
# docs/Doxyfile. Any warning is a failure. Usage: tools/build_docs.sh BUILD_FOLDER
set -euo pipefail
cd "$(dirname "$0")/.."
export MOESAIC_DOCS="$1/docs"
MOESAIC_VERSION=$(sed -n 's/^project(moesaic VERSION \([0-9.]*\).*/\1/p' CMakeLists.txt)
MOESAIC_DOCS_INPUT="docs/api.md include/moesaic$(if [[ -d python/moesaic ]]; then echo ' python/moesaic'; fi)"
export MOESAIC_VERSION MOESAIC_DOCS_INPUT
rm -rf "$MOESAIC_DOCS"
mkdir -p "$MOESAIC_DOCS"
doxygen docs/Doxyfile
echo "docs: $MOESAIC_DOCS/html/index.html, $(find "$MOESAIC_DOCS/html" -name '*.html' | wc -l) pages, no warnings"
