# SPDX-License-Identifier: Apache-2.0
"""tools/check_facts.py: comments that promise are found, words that only look alike are not."""

import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tools"))
import check_facts  # noqa: E402


class Promises(unittest.TestCase):
    def test_promises(self):
        for text in ("// TODO: more", "// FIXME", "// plain loops for now", "# not yet on a GPU", "a kernel will be added",
                     "this will serve SM90", "no kernel yet", "planned for SM100", "Temporarily off", "eventually freed"):
            self.assertIsNotNone(check_facts.PROMISE.search(text), text)

    def test_what_promises_nothing(self):
        for text in ("docs/TODO.md says what is missing", "CUDA 12.8 or later", "bytes of a planned tensor",
                     "kernels are planned and loaded once", "PTX has not met ptxas yet", "two branches later merged",
                     "a slower kernel is a visible row", "willing to be"):
            self.assertIsNone(check_facts.PROMISE.search(text), text)

    def test_only_comments_of_code_count(self):
        found = dict(check_facts.comments(pathlib.Path("tools/lint.sh")))
        self.assertEqual(found[5], "")
        self.assertIn("Everything that reads", "".join(found.values()))
        self.assertEqual(list(check_facts.promises()), [])


if __name__ == "__main__":
    unittest.main()
