#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""tools/facts: the documents of this tree agree with the executable; a change of a document, or of what the executable
says, is found and named. Usage: facts_tool_test.py MOESAIC"""

import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
MOESAIC = os.path.abspath(sys.argv[1])


class Facts(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name)
        for document in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
            target = self.root / document.relative_to(ROOT)
            target.parent.mkdir(exist_ok=True)
            shutil.copy(document, target)

    def run_facts(self, *options, moesaic=MOESAIC):
        command = [sys.executable, ROOT / "tools/facts", moesaic, "--root", self.root, *options]
        return subprocess.run(command, capture_output=True, text=True)

    def alter(self, document, old, new):
        path = self.root / document
        text = path.read_text(encoding="utf-8")
        self.assertIn(old, text, document)
        path.write_text(text.replace(old, new, 1), encoding="utf-8")

    def found(self, *words, moesaic=MOESAIC):
        done = self.run_facts(moesaic=moesaic)
        self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
        for word in words:
            self.assertIn(word, done.stdout)

    def saying(self, old, new):
        """An executable whose tables have changed."""
        path = self.root / "moesaic"
        replace = shlex.quote(f"s/{old}/{new}/g")
        path.write_text(f"#!/bin/bash\nset -o pipefail\n{shlex.quote(MOESAIC)} \"$@\" | /bin/sed {replace}\n")
        path.chmod(0o755)
        return path

    def test_this_tree(self):
        done = self.run_facts()
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_documents_that_differ(self):
        self.alter("README.md", "| bf16 | gemm | compiled |", "| bf16 | gemm | run |")
        self.alter("README.md", "ten model families", "nine model families")
        self.alter("README.md", "SM80 to SM121", "SM75 to SM121")
        self.alter("README.md", "GLM-4-MoE", "GLM-5-MoE")
        self.alter("README.md", "moesaic bundle list|verify|sign FILE", "moesaic bundle list|mend FILE")
        self.alter("README.md", "explain --arch 90 --recipe bf16", "explain --sm 90 --recipe bf17")
        self.alter("docs/architecture.md", "| fp8_tensor, fp8_channel, mxfp8 |", "| fp8_tensor, fp8_channel |")
        self.alter("docs/reference.md", "| mixtral-8x7b | 4096 |", "| mixtral-8x7b | 4095 |")
        self.found("support-matrix, line", "says 'nine'", "says 'SM75 to SM121'", "lacks glm4_moe",
                   "bundle has no verb mend", "lacks `moesaic bundle verify`", "no option --sm", "--recipe bf17 is in no table",
                   "kernel row warp_tiled_e4m3: says", "models, line 3")

    def test_code_that_differs(self):
        self.found("recipes, line", "support-matrix, line", "--recipe nvfp4 is in no table",
                   moesaic=self.saying("nvfp4\\b", "nvfp5"))
        self.found("architectures, line", "says 'SM80 to SM121'", moesaic=self.saying('"sm": 121', '"sm": 122'))
        self.found("command-line, line", "no option --expect", moesaic=self.saying("--expect", "--wanted"))
        self.found("Exit codes", moesaic=self.saying("2 wrong use", "3 wrong use"))

    def test_writing(self):
        before = (self.root / "README.md").read_text(encoding="utf-8")
        self.alter("README.md", "| bf16 | gemm | compiled |", "| bf16 | gemm | run |")
        self.assertEqual(self.run_facts("--write").returncode, 0)
        self.assertEqual((self.root / "README.md").read_text(encoding="utf-8"), before)

    def test_a_table_that_is_gone(self):
        self.alter("docs/reference.md", "<!-- facts: models -->", "")
        self.found("no document has models")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
