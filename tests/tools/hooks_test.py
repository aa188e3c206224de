# SPDX-License-Identifier: Apache-2.0
"""One list of checks: the hooks of .pre-commit-config.yaml are the steps of tools/lint.sh, and CI runs `make lint`."""

import pathlib
import re
import subprocess
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


class Hooks(unittest.TestCase):
    def lint(self, *arguments):
        return subprocess.run([ROOT / "tools/lint.sh", *arguments], capture_output=True, text=True)

    def test_hooks_are_the_steps_of_lint(self):
        steps = self.lint("--steps").stdout.split()
        self.assertIn("rules", steps)
        self.assertEqual(re.findall(r"^ +entry: (.*)$", read(".pre-commit-config.yaml"), re.MULTILINE),
                         [f"tools/lint.sh build {step}" for step in steps])
        self.assertEqual(re.findall(r"^ +- id: (.*)$", read(".pre-commit-config.yaml"), re.MULTILINE), steps)

    def test_tidy_looks_at_headers_by_way_of_a_source(self):
        function = re.search(r"^translation_unit_of\(\) \{.*?^\}", read("tools/lint.sh"), re.M | re.S).group()
        headers = sorted(str(file.relative_to(ROOT)) for top in ("src", "include") for file in (ROOT / top).rglob("*.h"))
        script = function + '\nfor file in "$@"; do translation_unit_of "$file"; done'
        sources = subprocess.run(["bash", "-c", script, "-", "src/base/fs.cc", *headers], cwd=ROOT, capture_output=True,
                                 text=True).stdout.split()
        self.assertEqual(sources[0], "src/base/fs.cc")
        self.assertEqual(len(sources), len(headers) + 1)
        self.assertEqual([file for file in sources if not (file.endswith(".cc") and (ROOT / file).exists())], [])
        hook = re.search(r"id: tidy.*?files: (\S+)", read(".pre-commit-config.yaml"), re.DOTALL).group(1)
        self.assertEqual([file for file in headers if not re.search(hook, file)], [])

    def test_make_lint_and_ci_run_them_all(self):
        recipe = read("Makefile").partition("\nlint:")[2].partition("\n\n")[0]
        self.assertIn("@tools/lint.sh $(BUILD)\n", recipe + "\n")
        self.assertRegex(read(".ci/run"), r"(?m)^step lint$")

    def test_a_step_that_is_none(self):
        done = self.lint(str(ROOT), "everything")
        self.assertNotEqual(done.returncode, 0)
        self.assertRegex(done.stderr, "is not configured|no step everything")


if __name__ == "__main__":
    unittest.main()
