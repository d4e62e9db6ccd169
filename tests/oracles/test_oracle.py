"""Oracles whose tools are missing skip, and fail where somebody insists on them."""

import shutil

import bochs_cpu
import pytest
import qemu_machine


@pytest.mark.parametrize(
    ("harness", "tool"), [(bochs_cpu, "gcc"), (qemu_machine, "qemu-system-x86_64")], ids=["bochs", "qemu"]
)
def test_a_missing_tool_skips_unless_oracles_are_required(monkeypatch, harness, tool):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.delenv("TWOFOLD_REQUIRE_ORACLES", raising=False)
    with pytest.raises(pytest.skip.Exception, match=f"{tool} is not installed"):
        harness.require()
    monkeypatch.setenv("TWOFOLD_REQUIRE_ORACLES", "1")
    with pytest.raises(pytest.fail.Exception, match=f"{tool} is not installed"):
        harness.require()
