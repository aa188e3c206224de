# SPDX-License-Identifier: Apache-2.0
"""tools/doxygen_filter.py: which comments become Doxygen's."""

import pathlib
import subprocess
import sys
import tempfile
import textwrap
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]


class DoxygenFilter(unittest.TestCase):
    def filtered(self, text):
        with tempfile.NamedTemporaryFile("w", suffix=".h", encoding="utf-8") as header:
            header.write(textwrap.dedent(text))
            header.flush()
            command = [sys.executable, ROOT / "tools/doxygen_filter.py", header.name]
            return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def same(self, before, after):
        self.assertEqual(self.filtered(before), textwrap.dedent(after))

    def test_the_head_is_the_files(self):
        self.same("// SPDX\n// Purpose.\n#pragma once\n// Of nothing.\n",
                  "/// @file\n/// Purpose.\n#pragma once\n// Of nothing.\n")

    def test_comments_of_members(self):
        self.same(
            """\
            #pragma once
            struct A {
              // Above.
              int a = 0;
              int b = 0;  // behind, and
                          // the next line
              std::string url = "http://x";
              /// Marked.
              int c;
            };  // end of A
            """,
            """\
            #pragma once
            struct A {
              /// Above.
              int a = 0;
              int b = 0;  ///< behind, and
                          ///< the next line
              std::string url = "http://x";
              /// Marked.
              int c;
            };  // end of A
            """)

    def test_words_behind_several_members_are_of_each(self):
        self.same("#pragma once\n  const T *a, *b = nullptr;  // either\n",
                  "#pragma once\n/** either */ const T *a; /** either */ const T *b = nullptr;\n")

    def test_lines_stay_where_they_are(self):
        for header in sorted((ROOT / "include/moesaic").glob("*.h")):
            text = header.read_text(encoding="utf-8")
            command = [sys.executable, ROOT / "tools/doxygen_filter.py", header]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            self.assertEqual(len(done.stdout.splitlines()), len(text.splitlines()), header.name)


if __name__ == "__main__":
    unittest.main()
