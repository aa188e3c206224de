#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Kernel packages, installed and used: the Debian package in a root of its own, the wheel in a Python environment, the
zip file in a prefix. What is installed is the command line and package_probe (package_probe.cc), which asks for kernels
with compiling off, no NVRTC and an empty cache. Usage: package_test.py MOESAIC PROBE PROBE_MODULE. Exit code 77: a
program that this needs is missing."""

import base64
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
import zipfile

MOESAIC, PROBE, PROBE_MODULE = map(pathlib.Path, sys.argv[1:4])
SM, OTHER_SM = 90, 80
CHOICE = ["--arch", str(SM), "--op", "weighted_sum"]
ENVIRONMENT = {**os.environ, "MOESAIC_PACKAGES": "", "MOESAIC_NVRTC": "/nowhere", "MOESAIC_BUNDLE": ""}
SERVED = re.compile(r"^[1-9]\d* kernels$")


def run(*command, wanted=0, **environment):
    """What a command prints, both streams together."""
    done = subprocess.run([str(part) for part in command], env={**ENVIRONMENT, **environment}, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode != wanted:
        raise AssertionError(f"{command}: exit code {done.returncode}, wanted {wanted}\n{done.stdout}")
    return done.stdout


def rewritten(bundle, change_manifest=lambda manifest: None, rename=lambda name: name):
    """Replaces a bundle by one with another manifest."""
    with zipfile.ZipFile(bundle) as old:
        files = {rename(name): old.read(name) for name in old.namelist()}
    manifest = json.loads(files["manifest.json"])
    change_manifest(manifest)
    files["manifest.json"] = json.dumps(manifest)
    with zipfile.ZipFile(bundle, "w") as new:
        for name, content in files.items():
            new.writestr(name, content)


class Packages(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name).resolve()
        self.bundle = self.folder / "kernels.zip"
        self.output = self.folder / "packages"
        self.output.mkdir()
        run(PROBE, SM, self.bundle)

    def package(self, kind, *more, output=None, wanted=0, **environment):
        return run(MOESAIC, "package", *CHOICE, "--format", kind, "--bundle", self.bundle, "--output",
                   output or self.output, *more, wanted=wanted, **environment)

    def made(self, kind):
        self.package(kind)
        (file,) = self.output.iterdir()
        return file

    def installed_program(self, prefix):
        """The probe and the command line, in the bin folder of a prefix."""
        (prefix / "bin").mkdir(parents=True, exist_ok=True)
        shutil.copy(MOESAIC, prefix / "bin/moesaic")
        return shutil.copy(PROBE, prefix / "bin/probe")

    def doctor(self, prefix):
        """What doctor says of the one package below the prefix; a machine may have packages of its own."""
        files = json.loads(run(prefix / "bin/moesaic", "doctor", "--json"))["packages"]["files"]
        (package,) = [file for file in files if file["file"].startswith(str(prefix))]
        return package

    def check_serves(self, prefix, probe):
        self.assertRegex(run(probe, SM).strip(), SERVED)
        self.assertIn(f"no package moesaic-kernels-sm{OTHER_SM} is installed", run(probe, OTHER_SM))
        self.assertNotIn("error", self.doctor(prefix))
        self.assertIn("kernel packages are off", run(probe, SM, MOESAIC_PACKAGES="off"))

    def check_refusals(self, prefix, probe, bundle):
        """Another version, another kernel text and damage, each said with its reason by a store and by doctor."""
        whole = bundle.read_bytes()

        def check(reason):
            self.assertIn(reason, run(probe, SM))
            self.assertIn(reason, self.doctor(prefix)["error"])
            self.assertIn(reason, run(prefix / "bin/moesaic", "doctor"))
            bundle.write_bytes(whole)

        rewritten(bundle, lambda manifest: manifest.update(moesaic="0.0.1"))
        check("made by moesaic 0.0.1")
        rewritten(bundle, lambda manifest: manifest.update(module_abi=1 << 20))
        check(f"module ABI {1 << 20}")

        def other_text(manifest):
            for entry in manifest["entries"]:
                entry["identity"] = entry["identity"][::-1]
        rewritten(bundle, other_text, lambda name: name[:64][::-1] + name[64:] if len(name) > 64 else name)
        check("another kernel text")
        bundle.write_bytes(whole.replace(b"image of", b"image 0f"))
        check("damaged")
        bundle.write_bytes(whole[:len(whole) // 2])
        check("damaged")

    @unittest.skipUnless(shutil.which("dpkg-deb"), "no dpkg-deb")
    def test_deb_in_a_root_of_its_own(self):
        deb = self.made("deb")
        root = self.folder / "root"
        for state in "info", "updates":
            (root / "var/lib/dpkg" / state).mkdir(parents=True)
        (root / "var/lib/dpkg/status").touch()
        if os.geteuid() == 0:
            run("dpkg", f"--root={root}", "--log=/dev/null", "--force-depends", "--install", deb)
            listed = run("dpkg-query", f"--admindir={root}/var/lib/dpkg", "-W", "-f", "${Package} ${db:Status-Status}")
            self.assertEqual(listed, f"moesaic-kernels-sm{SM} installed")
        else:
            run("dpkg-deb", "-x", deb, root)
        probe = self.installed_program(root / "usr")
        self.check_serves(root / "usr", probe)
        self.check_refusals(root / "usr", probe, root / f"usr/share/moesaic/kernels/sm{SM}.zip")

    @unittest.skipUnless(shutil.which("lintian"), "no lintian")
    def test_deb_pleases_lintian(self):
        deb = self.made("deb")
        print(run("lintian", "--allow-root", "--fail-on", "error,warning", "--tag-display-limit", "0", deb))

    def test_wheel_in_an_environment(self):
        wheel = self.made("wheel")
        environment = self.folder / "venv"
        run(sys.executable, "-m", "venv", "--without-pip", environment)
        python = environment / "bin/python"
        run(sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "--no-cache-dir",
            "--disable-pip-version-check", wheel)
        (site,) = environment.glob("lib/python3*/site-packages")
        # As a Python package of the library lies: its folder beside those of kernels.
        (site / "moesaic").mkdir()
        library = shutil.copy(PROBE_MODULE, site / "moesaic")
        ask = environment / "bin/ask"
        ask.write_text(f"#!{python}\nimport ctypes, sys\nprobe = ctypes.CDLL({str(library)!r}).moesaic_package_probe\n"
                       "probe.restype = ctypes.c_char_p\nprint(probe(int(sys.argv[1])).decode())\n")
        ask.chmod(0o755)
        shutil.copy(MOESAIC, environment / "bin/moesaic")
        self.check_serves(environment, ask)
        self.check_refusals(environment, ask, site / f"moesaic_kernels_sm{SM}/sm{SM}.zip")
        run(python, "-c", f"import moesaic_kernels_sm{SM}")
        run(sys.executable, "-m", "pip", "--python", python, "uninstall", "--yes", f"moesaic-kernels-sm{SM}")
        self.assertIn("no package", run(ask, SM))

    def test_wheel_records_what_it_holds(self):
        with zipfile.ZipFile(self.made("wheel")) as wheel:
            (record,) = [name for name in wheel.namelist() if name.endswith(".dist-info/RECORD")]
            lines = [line.split(",") for line in wheel.read(record).decode().split()]
            self.assertEqual({line[0] for line in lines}, set(wheel.namelist()))
            for name, digest, size in lines:
                if name == record:
                    continue
                content = wheel.read(name)
                self.assertEqual(int(size), len(content))
                kind, wanted = digest.split("=")
                found = base64.urlsafe_b64encode(hashlib.new(kind, content).digest()).decode().rstrip("=")
                self.assertEqual(found, wanted, name)

    def test_zip_in_a_prefix(self):
        file = self.made("zip")
        prefix = self.folder / "prefix"
        (prefix / "share/moesaic/kernels").mkdir(parents=True)
        bundle = pathlib.Path(shutil.copy(file, prefix / "share/moesaic/kernels"))
        probe = self.installed_program(prefix)
        self.check_serves(prefix, probe)
        self.check_refusals(prefix, probe, bundle)

    def test_equal_kernels_give_equal_bytes(self):
        for kind in ("zip", "wheel", "deb") if shutil.which("dpkg-deb") else ("zip", "wheel"):
            first = self.made(kind).read_bytes()
            self.assertEqual(self.made(kind).read_bytes(), first, kind)
            for file in self.output.iterdir():
                file.unlink()

    def test_wrong_bundles_make_no_package(self):
        self.assertIn("--format", self.package("rpm", wanted=2))
        self.assertIn("lacks", self.package("zip", "--op", "prepare", wanted=1))
        refusal = self.package("zip", "--ptx", wanted=1)
        for word in "lacks", "of ptx", "for compute_80", "not there", "moesaic compile --ptx":
            self.assertIn(word, refusal)
        whole = self.bundle.read_bytes()
        rewritten(self.bundle, lambda manifest: manifest.update(moesaic="0.0.1"))
        self.assertIn("made by moesaic 0.0.1", self.package("zip", wanted=1))
        self.bundle.write_bytes(whole.replace(b"image of", b"image 0f"))
        self.assertIn("damaged", self.package("wheel", wanted=1))
        self.bundle.write_bytes(whole)
        self.assertIn("there is no folder", self.package("zip", output=self.folder / "none", wanted=1))
        self.assertIn("dpkg-deb", self.package("deb", wanted=1, PATH="/nowhere"))
        self.assertEqual(list(self.output.iterdir()), [])


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
