"""Cached machine code is never older than its sources: the cache folder is named by a hash over all of them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import twofold.kernels
from twofold.kernels._jit import source_hash

PACKAGE = Path(twofold.kernels.__file__).parent
SOURCES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))

# Looks up gfn 5 in a P2M of four tables, with a kernel whose callee `is_present` stands in another file.
PROBE = """
import numpy as np
from twofold.formats.npt import FOUR_LEVEL_SHAPE
from twofold.kernels import lookup
memory = np.zeros((4, 512), np.uint64)
memory[0, 0], memory[1, 0], memory[2, 0], memory[3, 5] = 0x1067, 0x2067, 0x3067, 0x77067
mfn = lookup.look_up(memory, FOUR_LEVEL_SHAPE, 0, np.uint64(5))
print(hex(int(mfn)), sum(lookup.look_up.stats.cache_hits.values()))
"""


@pytest.mark.parametrize("name", SOURCES)
def test_editing_any_source_changes_the_hash(tmp_path, name):
    copy = tmp_path / "kernels"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    before = source_hash(copy)
    assert before == source_hash(PACKAGE)
    with (copy / name).open("a") as source:
        source.write("\n")
    assert source_hash(copy) != before


def test_renaming_or_adding_a_source_changes_the_hash(tmp_path):
    copy = tmp_path / "kernels"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    hashes = {source_hash(copy)}
    (copy / "frames.py").rename(copy / "frames2.py")
    hashes.add(source_hash(copy))
    (copy / "new.py").touch()
    hashes.add(source_hash(copy))
    (copy / "new.py").rename(copy / "blocks" / "new.py")
    hashes.add(source_hash(copy))
    assert len(hashes) == 4


@pytest.mark.slow
def test_an_edited_callee_in_another_file_gives_the_new_answer(tmp_path):
    copy = tmp_path / "twofold"
    copy.mkdir()
    for name in ("units.py", "errors.py"):
        shutil.copy(PACKAGE.parent / name, copy)
    for name in ("formats", "kernels"):
        shutil.copytree(PACKAGE.parent / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "__init__.py").touch()
    (copy / "kernels" / "__init__.py").write_text("")  # only what the probe imports, to be quick

    def probe() -> str:
        environment = os.environ | {"PYTHONPATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
        ran = subprocess.run(
            [sys.executable, "-c", PROBE], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return ran.stdout.strip()

    assert probe() == "0x77 0"
    assert list((tmp_path / "cache").rglob("lookup.look_up-*.nbi")), "the caller's machine code was kept"
    entries = copy / "kernels" / "_entries.py"
    text = entries.read_text()
    edited = text.replace("return (entry & shape[PRESENT]) != ZERO", "return entry == ZERO", 1)
    assert edited != text
    entries.write_text(edited)
    assert probe() == "0xffffffffffffffff 0", "the callee now calls every entry a hole"


@pytest.mark.slow
def test_without_a_cache_folder_nothing_is_kept_beside_the_sources():
    code = (
        "from twofold.kernels import heap; import numpy as np;"
        "assert not heap.is_free(np.zeros(9, np.uint8), 8);"
        "print(type(heap.is_free._cache).__name__)"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": "/proc/nowhere"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "NullCache"), done.stderr
