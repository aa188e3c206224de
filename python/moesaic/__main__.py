# SPDX-License-Identifier: Apache-2.0
"""``python -m moesaic``: the command line."""

from ._command import main

main()
