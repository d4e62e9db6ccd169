"""Machine code that was kept is run only where nobody else can have put it, and compiled again where it is damaged."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from twofold.kernels._cache import make_private, why_unsafe

CODE = (
    "from twofold.kernels import heap; import numpy as np;"
    "assert not heap.is_free(np.zeros(9, np.uint8), 8);"
    "print(sum(heap.is_free.stats.cache_hits.values()), type(heap.is_free._cache).__name__)"
)


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "a" / "b" / "kernels"
    before = os.umask(0)
    try:
        make_private(made)
    finally:
        os.umask(before)
    return made


def test_a_folder_that_was_made_for_it_is_safe_under_any_umask(folder):
    assert {path.stat().st_mode & 0o777 for path in (folder, folder.parent, folder.parents[1])} == {0o700}
    assert why_unsafe(folder) == ""


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o720, 0o702])
def test_a_folder_that_others_may_write_to_is_refused_with_the_cure(folder, level, mode):
    path = (folder, *folder.parents)[level]
    path.chmod(mode)
    assert why_unsafe(folder).startswith(f"others may write to {path}: chmod go-w {path}")


def test_a_parent_with_the_sticky_bit_is_as_safe_as_the_folder_of_temporary_files(folder):
    folder.parent.chmod(0o1777)
    assert why_unsafe(folder) == ""


def test_a_link_leads_to_a_folder_that_is_looked_at_too(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder.parent)
    assert why_unsafe(tmp_path / "link" / "kernels") == ""
    folder.parents[1].chmod(0o777)
    assert "others may write" in why_unsafe(tmp_path / "link" / "kernels")


def test_what_lies_there_and_is_no_file_of_the_users_own_is_refused(folder):
    (folder / "a.nbi").symlink_to("/etc/passwd")
    assert "is no file of yours" in why_unsafe(folder)


def test_entries_that_others_may_write_to_are_refused_unless_the_folder_is_shut(folder):
    (folder / "walk_1").mkdir(mode=0o775)
    (folder / "walk_1").chmod(0o775)
    (folder / "walk_1" / "a.nbi").touch()
    (folder / "walk_1" / "a.nbi").chmod(0o664)
    assert why_unsafe(folder) == "", "as Numba makes them under umask 002"
    folder.chmod(0o755)
    assert "others may write to" in why_unsafe(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a folder away")
@pytest.mark.parametrize("level", [0, 1])
def test_a_folder_of_another_user_is_refused(folder, level):
    path = (folder, *folder.parents)[level]
    os.chown(path, 1234, 1234)
    assert f"{path} belongs to user 1234" in why_unsafe(folder)


def run(cache):
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr


@pytest.mark.medium
def test_a_damaged_entry_is_compiled_again_and_then_found(tmp_path):
    assert run(tmp_path)[0] == "0 KeptCode"
    assert run(tmp_path)[0] == "1 KeptCode"
    for pattern in ("*.nbi", "*.nbc"):
        (path,) = (each for each in Path(tmp_path).rglob(pattern) if "is_free" in each.name)
        good = path.read_bytes()
        flipped = bytearray(good)
        flipped[len(good) // 2] ^= 1
        for damaged in (b"", good[:3], good[: len(good) // 2], bytes(flipped), b"garbage" * 99):
            path.write_bytes(damaged)
            assert run(tmp_path) == ("0 KeptCode", "")
        assert run(tmp_path) == ("1 KeptCode", "")


@pytest.mark.medium
def test_a_cache_that_others_may_write_to_is_told_once_and_neither_read_nor_written(tmp_path):
    run(tmp_path)
    (tmp_path / "twofold").chmod(0o777)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nb?")}
    out, err = run(tmp_path)
    assert out == "0 NullCache"
    assert len(err.splitlines()) == 1
    assert f"chmod go-w {tmp_path / 'twofold'}" in err
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nb?")} == before
