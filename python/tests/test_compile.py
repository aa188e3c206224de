# SPDX-License-Identifier: Apache-2.0
"""Kernels compiled ahead of time from Python; needs NVRTC, no GPU."""

import json
import zipfile

import pytest

import moesaic


def test_a_bundle_of_one_op_for_two_architectures(tmp_path, monkeypatch):
    monkeypatch.setenv("MOESAIC_CACHE_DIR", str(tmp_path / "cache"))
    bundle = tmp_path / "kernels.zip"
    report = moesaic.compile(["80", "sm_90a"], recipe="bf16", op="weighted_sum", out=bundle, jobs=1)
    assert report["kernels"] >= 2 and report["compiled"] == report["kernels"] and report["violations"] == []
    assert {row["arch"] for row in report["archs"]} == {"80", "90"}
    with zipfile.ZipFile(bundle) as packed:
        json.loads(packed.read("manifest.json"))
        assert len([name for name in packed.namelist() if name.endswith(".cubin")]) == report["kernels"]
    again = moesaic.compile("80,sm_90a", recipe=["bf16"], op=["weighted_sum"])
    assert again["kernels"] == report["kernels"] and again["compiled"] == 0


def test_failures_are_the_commands(tmp_path, monkeypatch):
    monkeypatch.setenv("MOESAIC_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("MOESAIC_NVRTC", str(tmp_path / "nowhere"))
    with pytest.raises(moesaic.CompileError, match="nowhere"):
        moesaic.compile("90", recipe="bf16", op="weighted_sum")
