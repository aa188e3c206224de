# SPDX-License-Identifier: Apache-2.0
"""tools/check_docs.py: what lacks a comment or a docstring is found, and nothing else."""

import pathlib
import sys
import tempfile
import textwrap
import unittest
from unittest import mock

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tools"))
import check_docs  # noqa: E402
import source_tree  # noqa: E402


class CheckDocs(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name)
        for module in (check_docs, source_tree):
            patch = mock.patch.object(module, "ROOT", self.root)
            patch.start()
            self.addCleanup(patch.stop)

    def write(self, name, text):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return pathlib.Path(name)

    def lacking(self, findings):
        return [finding.split(" is public")[0].split(": ")[1] for finding in findings]

    def test_headers(self):
        path = self.write("include/moesaic/a.h", """\
            #pragma once
            struct Forward;
            struct Bare {
              int x = 0;
            };
            /// Words.
            class A {
             public:
              A(A&&) noexcept;
              ~A();
              /// Words.
              void documented() const;
              void bare_method(int a,
                               int b);
              bool inline_one() const { return true; }  // words

             private:
              void hidden();
            };
            /// Words.
            int first(int x);
            int second(int x);
            typedef enum c_enum { C_A = 0 } c_enum;
            """)
        names, findings = check_docs.undocumented_in_header(path)
        self.assertEqual(self.lacking(findings), ["Bare", "bare_method", "second", "c_enum"])
        self.assertEqual(names, 8)

    def test_modules(self):
        face = self.write("python/moesaic/__init__.py", '''\
            """Words."""
            from ._inner import Exported
            def bare(): pass
            def _hidden(): pass
            class A:
                """Words."""
                def method(self): pass
                @property
                def p(self):
                    """Words."""
                @p.setter
                def p(self, value): pass
            ''')
        inner = self.write("python/moesaic/_inner.py", "class Exported:\n    def f(self): pass\nclass Own: pass\n")
        other = self.write("python/moesaic/_other.py", "class Exported: pass\n")
        exported = check_docs.exported_names("python/moesaic")
        self.assertEqual(self.lacking(check_docs.undocumented_in_module(face, exported)[1]), ["bare", "A.method"])
        self.assertEqual(self.lacking(check_docs.undocumented_in_module(inner, exported)[1]), ["Exported", "Exported.f"])
        self.assertEqual(check_docs.undocumented_in_module(other, exported), (0, []))

    def test_without_python(self):
        self.assertEqual(check_docs.exported_names("python/moesaic"), set())


if __name__ == "__main__":
    unittest.main()
