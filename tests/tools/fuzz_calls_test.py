# SPDX-License-Identifier: Apache-2.0
"""Every function of moesaic.h is called by a fuzzer of the C interface: a new one that is not fails here."""

import pathlib
import re
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]


def without_comments(text):
    return re.sub(r"//[^\n]*", "", text)


def functions_of(header):
    """Names of the functions that a C header declares; types of callbacks are none."""
    return set(re.findall(r"^[a-z][\w ]*[ *]+(moesaic_\w+)\(", without_comments(header), re.MULTILINE))


def uncalled(header, source):
    """Functions that the source neither calls nor hands on (as an _init to what fills structs, a _destroy to owners)."""
    used = set(re.findall(r"\bmoesaic_\w+(?=\s*[(,)>])", without_comments(source)))
    return sorted(functions_of(header) - used)


class FuzzCalls(unittest.TestCase):
    def test_every_function_is_called(self):
        header = (ROOT / "include/moesaic/moesaic.h").read_text(encoding="utf-8")
        self.assertGreater(len(functions_of(header)), 60)
        source = "".join(file.read_text(encoding="utf-8") for file in sorted((ROOT / "tests/fuzz").glob("capi*")))
        self.assertEqual(uncalled(header, source), [], "add them to a part of tests/fuzz/capi_*fuzz.cc")

    def test_what_is_missing_is_found(self):
        header = ("typedef void (*moesaic_callback)(int level);\n/// moesaic_word(x).\nmoesaic_status moesaic_one(int x);\n"
                  "void* moesaic_two(void);\nmoesaic_status moesaic_three(const moesaic_two_t* x,\n    size_t y);\n")
        self.assertEqual(functions_of(header), {"moesaic_one", "moesaic_two", "moesaic_three"})
        self.assertEqual(uncalled(header, "ok(moesaic_one(1));  // moesaic_three(2)\nfill(c, moesaic_two);"),
                         ["moesaic_three"])


if __name__ == "__main__":
    unittest.main()
