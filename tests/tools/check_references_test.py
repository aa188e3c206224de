# SPDX-License-Identifier: Apache-2.0
"""tools/check_references.py: names in documents that nothing has are found; examples and placeholders are not."""

import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tools"))
import check_references  # noqa: E402


class CheckReferences(unittest.TestCase):
    words = {"kKindCosts", "cuda", "LaunchChain", "MOESAIC_JIT", "Install", "ExportsWhat"}

    def names(self, text):
        return [wrong for _, wrong in check_references.missing_names(text, self.words, {"lint", "test"})]

    def paths(self, text):
        return [wrong for _, wrong in check_references.missing_paths(text)]

    def test_names(self):
        self.assertEqual(self.names("`kKindCosts` `cuda::LaunchChain` `Install.ExportsWhat` `make lint` MOESAIC_JIT `bf16`"), [])
        self.assertEqual(self.names("`kKindRates`"), ["`kKindRates`: nothing is called kKindRates"])
        self.assertEqual(self.names("`cuda::Chain`"), ["`cuda::Chain`: nothing is called Chain"])
        self.assertEqual(self.names("`make readme`"), ["`make readme`: no target readme in the Makefile"])
        self.assertEqual(self.names("set MOESAIC_GIT"), ["nothing reads MOESAIC_GIT"])
        self.assertEqual(self.names("`libnone-dev`"), ["tools/install_deps.sh does not install libnone-dev"])
        self.assertEqual(self.names("`libmoesaic-dev`"), [])

    def test_paths(self):
        self.assertEqual(self.paths("src/tables/arch_table.h, src/tables/kernel_table.{h,cc}; kernels/<family>/, tests/cli/"), [])
        self.assertEqual(self.paths("see src/tables/archs.h."), ["there is no src/tables/archs.h"])
        self.assertEqual(self.paths("`src/tables/kernel_table.{h,py}`"), ["there is no src/tables/kernel_table.py"])
        self.assertEqual(self.paths("tests/no_*_test.cc"), ["there is no tests/no_*_test.cc"])

    def test_lists(self):
        self.assertEqual(list(check_references.lists_said_twice()), [])


if __name__ == "__main__":
    unittest.main()
