"""Files are written whole or not at all, private until then, over no link's target, and nothing is left of the dead."""

import fcntl
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from twofold.domain import Machine
from twofold.drafts import Draft, abandon, is_draft
from twofold.errors import FormatError
from twofold.files import begin_growing, check_target, open_regular, read_bounded, read_start, write_text, write_whole

WRITER = """
import sys, time
from pathlib import Path
from twofold.files import begin_growing, write_whole

def write(file):
    for part in range(40):
        file.write(b"new" * 10_000)
        file.flush()
        if part == 0:
            print("begun", flush=True)
        time.sleep(float(sys.argv[2]))

write_whole(sys.argv[1], write)
print("done", flush=True)
"""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def descriptors():
    return list(Path("/proc/self/fd").iterdir())


def mode(path):
    return stat.S_IMODE(path.lstat().st_mode)


@contextmanager
def umask(value):
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def writer(target, pause):
    """Yield a process that writes a file step by step, when it has begun."""
    argv = [sys.executable, "-c", WRITER, str(target), str(pause)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"begun\n"
            yield process
        finally:
            process.kill()


# -- names and modes --------------------------------------------------------------------------------------------


def test_a_draft_is_private_locked_and_of_a_new_name_each_time(tmp_path):
    seen = set()

    def look(file):
        file.write(b"half")
        file.flush()
        (name,) = names(tmp_path)
        assert Path(file.name) == tmp_path / name
        assert is_draft(Path(name))
        assert mode(tmp_path / name) == 0o600
        with (tmp_path / name).open("rb") as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
        seen.add(name)

    with umask(0):
        for turn in range(20):
            write_whole(tmp_path / "a", look)
            (tmp_path / "a").rename(tmp_path.parent / f"{tmp_path.name}-{turn}")
    assert len(seen) == 20


def test_a_name_that_is_taken_is_never_written_through(tmp_path, monkeypatch):
    """An attacker who foretells the name has planted a link there."""
    (tmp_path / "victim").write_text("mine")
    monkeypatch.setattr("os.urandom", bytes)
    (tmp_path / f".twofold-{'00' * 8}.partial").symlink_to(tmp_path / "victim")
    with pytest.raises(FormatError, match="File exists"):
        write_text(tmp_path / "a", "new")
    assert (tmp_path / "victim").read_text() == "mine"
    assert (tmp_path / f".twofold-{'00' * 8}.partial").is_symlink()


@pytest.mark.parametrize(("mask", "expected"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664), (0, 0o666)])
def test_a_new_file_has_the_mode_that_the_umask_leaves(tmp_path, mask, expected):
    with umask(mask):
        write_text(tmp_path / "a", "new")
        assert os.umask(mask) == mask, "it was not changed"
    assert mode(tmp_path / "a") == expected


@pytest.mark.parametrize("old", [0o600, 0o640, 0o666, 0o444, 0o755, 0o4755])
def test_a_file_that_is_replaced_leaves_its_mode_to_the_new_one(tmp_path, old):
    (tmp_path / "a").write_text("old")
    (tmp_path / "a").chmod(old)
    write_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "new"
    assert mode(tmp_path / "a") == old & 0o777


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a file away")
def test_a_file_that_is_replaced_leaves_its_owner_and_group_too(tmp_path):
    (tmp_path / "a").write_text("old")
    os.chown(tmp_path / "a", 1234, 4321)
    write_text(tmp_path / "a", "new")
    status = (tmp_path / "a").stat()
    assert (status.st_uid, status.st_gid) == (1234, 4321)


def test_rights_of_a_group_that_cannot_be_kept_go_to_no_other(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("old")
    (tmp_path / "a").chmod(0o664)
    real = os.fstat

    def of_another_group(descriptor):
        return os.stat_result([*real(descriptor)[:5], 77, *real(descriptor)[6:]])

    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr("os.fchown", refuse)
    monkeypatch.setattr("os.fstat", of_another_group)
    write_text(tmp_path / "a", "new")
    assert mode(tmp_path / "a") == 0o604


@pytest.mark.parametrize("old", [None, 0o644, 0o666])
def test_what_a_guest_may_have_in_its_memory_is_private(tmp_path, old):
    for name in ("a.journal", "a.machine"):
        if old is not None:
            (tmp_path / name).touch()
            (tmp_path / name).chmod(old)
    with umask(0), Machine("64MiB", journal=tmp_path / "a.journal") as machine:
        assert mode(tmp_path / "a.journal") == 0o600, "from its beginning"
        machine.save(tmp_path / "a.machine")
    assert {name: mode(tmp_path / name) for name in names(tmp_path)} == {"a.journal": 0o600, "a.machine": 0o600}


# -- links, folders, devices ------------------------------------------------------------------------------------


def test_a_link_is_replaced_and_what_it_led_to_is_left_alone(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "victim").write_text("mine")
    for name, target in (("a", "there/victim"), ("b", "nowhere")):
        (tmp_path / name).symlink_to(target)
        write_text(tmp_path / name, "new")
        assert not (tmp_path / name).is_symlink()
        assert (tmp_path / name).read_text() == "new"
        (tmp_path / name).unlink()
        (tmp_path / name).symlink_to(target)
        with begin_growing(tmp_path / name) as file:
            file.write(b"new")
        file.close()
        assert not (tmp_path / name).is_symlink()
    assert (tmp_path / "there" / "victim").read_text() == "mine"
    assert names(tmp_path / "there") == ["victim"]


@pytest.mark.parametrize("through", ["/dev/stdout", "/proc/self/fd/1", "/dev/fd/1", "link", "far"])
def test_what_a_process_has_open_is_left_alone(tmp_path, through):
    (tmp_path / "link").symlink_to("/dev/stdout")
    (tmp_path / "far").symlink_to("link")
    code = f"from twofold.files import write_text; write_text({through!r}, 'new')"
    with (tmp_path / "out").open("wb") as out:
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, stdout=out, stderr=subprocess.PIPE, check=False
        )
    assert b"is what a process has open; it is left alone" in done.stderr
    assert names(tmp_path) == ["far", "link", "out"]
    assert Path("/dev/stdout").is_symlink()


@pytest.mark.parametrize(
    "name", ["pipe", "null", "folder", "no/a", "", "-", "a\0b", "n" * 300, "to-pipe", "a" + "/b" * 99]
)
def test_what_cannot_be_written_is_one_line_before_any_work(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    Path("folder").mkdir()
    Path("null").symlink_to("/dev/null")
    Path("to-pipe").symlink_to("pipe")
    before = names(tmp_path)
    for refused in (check_target, lambda path: write_text(path, "new"), lambda path: Machine("4MiB", journal=path)):
        with pytest.raises(FormatError) as caught:
            refused(name)
        assert "\n" not in str(caught.value)
    assert names(tmp_path) == before


@pytest.mark.parametrize(
    "name", ["pipe", "to-pipe", "/dev/zero", "/dev/null", "/dev/tty", "folder", "no", "a\0b", "socket"]
)
def test_a_file_to_read_is_a_regular_one_and_nothing_is_waited_for(tmp_path, monkeypatch, name):
    import socket

    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    Path("to-pipe").symlink_to("pipe")
    Path("folder").mkdir()
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket")
        for read in (open_regular, lambda path: read_bounded(path, 9), lambda path: read_start(path, 9)):
            with pytest.raises(FormatError, match="cannot be read"):
                read(Path(name))


def test_a_pipe_that_takes_the_place_of_a_file_in_the_last_moment_is_not_waited_for(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("text")
    status = (tmp_path / "a").stat()
    (tmp_path / "a").unlink()
    os.mkfifo(tmp_path / "a")
    monkeypatch.setattr(Path, "stat", lambda _self, **_: status)
    opened = len(descriptors())
    with pytest.raises(FormatError, match="is no regular file"):
        open_regular(tmp_path / "a")
    assert len(descriptors()) == opened


def test_a_file_is_read_through_a_link(tmp_path):
    (tmp_path / "a").write_text("text")
    (tmp_path / "b").symlink_to("a")
    assert read_bounded(tmp_path / "b", 4) == b"text"
    with pytest.raises(FormatError, match="is larger than"):
        read_bounded(tmp_path / "b", 3)


# -- ends -------------------------------------------------------------------------------------------------------


def test_a_growing_file_has_its_name_when_its_beginning_is_whole(tmp_path):
    (tmp_path / "a").write_text("old")
    with begin_growing(tmp_path / "a") as file:
        file.write(b"begin")
        assert (tmp_path / "a").read_text() == "old"
    assert (tmp_path / "a").read_text() == "begin"
    file.write(b", more")
    file.close()
    assert (tmp_path / "a").read_text() == "begin, more"
    with pytest.raises(KeyboardInterrupt), begin_growing(tmp_path / "a"):
        raise KeyboardInterrupt
    assert (tmp_path / "a").read_text() == "begin, more"
    assert names(tmp_path) == ["a"]


def test_a_file_may_grow_in_a_draft(tmp_path):
    (tmp_path / "a").write_text("old")

    def write(file):
        with begin_growing(file.name) as growing:
            growing.write(b"new")
        growing.close()
        assert len(names(tmp_path)) == 2
        assert mode(Path(file.name)) == 0o600

    write_whole(tmp_path / "a", write)
    assert (tmp_path / "a").read_text() == "new"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), ValueError()])
def test_what_fails_leaves_the_old_file_alone_and_no_descriptor(tmp_path, error):
    (tmp_path / "a").write_text("old")

    def fail(file):
        file.write(b"half")
        raise error

    opened = len(descriptors())
    with pytest.raises(FormatError if isinstance(error, OSError) else type(error)):
        write_whole(tmp_path / "a", fail)
    assert (names(tmp_path), (tmp_path / "a").read_text()) == (["a"], "old")
    assert len(descriptors()) == opened


def test_a_process_abandons_its_own_drafts_and_no_others(tmp_path):
    with writer(tmp_path / "b", 30):
        (others,) = names(tmp_path)
        draft = Draft(tmp_path / "a")
        (tmp_path / others).open("rb").close()
        abandon()
        assert names(tmp_path) == [others]
        draft.close()


# -- the dead ---------------------------------------------------------------------------------------------------


def test_the_draft_of_a_dead_writer_goes_with_the_next_write_and_that_of_a_live_one_stays(tmp_path):
    with writer(tmp_path / "b", 30) as live, writer(tmp_path / "c", 30) as dead:
        assert len(names(tmp_path)) == 2
        dead.kill()
        dead.wait()
        assert len(names(tmp_path)) == 2, "nobody is there who could remove it"
        write_text(tmp_path / "a", "new")
        assert len(names(tmp_path)) == 2
        assert live.poll() is None
    write_text(tmp_path / "a", "newer")
    assert names(tmp_path) == ["a"]


def test_what_is_no_draft_of_the_users_own_is_not_swept(tmp_path):
    name = ".twofold-0123456789abcde{}.partial".format
    (tmp_path / "victim").write_text("mine")
    (tmp_path / name(0)).symlink_to("victim")
    (tmp_path / name(1)).mkdir()
    os.mkfifo(tmp_path / name(2))
    (tmp_path / "x.partial").touch()
    (tmp_path / ".twofold-mine.partial").touch()
    if os.geteuid() == 0:
        (tmp_path / name(3)).touch()
        os.chown(tmp_path / name(3), 1234, 1234)
    before = names(tmp_path)
    write_text(tmp_path / "a", "new")
    assert names(tmp_path) == sorted([*before, "a"])
    (tmp_path / name(4)).touch()
    write_text(tmp_path / "a", "new")
    assert names(tmp_path) == sorted([*before, "a"])


def test_a_sweeper_in_the_instant_before_a_draft_is_locked_costs_another_name(tmp_path, monkeypatch):
    real, first = fcntl.flock, []

    def swept(file, operation):
        if operation & fcntl.LOCK_EX and not first:
            first.append(Path(file.name))
            first[0].unlink()
        real(file, operation)

    monkeypatch.setattr("fcntl.flock", swept)
    write_text(tmp_path / "a", "new")
    assert len(first) == 1
    assert names(tmp_path) == ["a"]


def test_where_a_file_system_has_no_locks_files_are_written_and_nothing_is_swept(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", refuse)
    (tmp_path / f".twofold-{'0' * 16}.partial").touch()
    write_text(tmp_path / "a", "new")
    assert names(tmp_path) == [f".twofold-{'0' * 16}.partial", "a"]


@pytest.mark.medium
def test_many_writers_and_sweepers_of_one_folder_lose_nothing(tmp_path):
    def write(number):
        for turn in range(50):
            write_text(tmp_path / f"{number}", f"{turn}" * 999)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert names(tmp_path) == [f"{number}" for number in range(8)]
    assert {path.read_text() for path in tmp_path.iterdir()} == {"49" * 999}


def kill_at_moments(target, moments):
    """Kill a writer after so many seconds each; return how many of them left the old file."""
    old = 0
    for moment in moments:
        target.write_bytes(b"old")
        with writer(target, 0.0005) as process:
            time.sleep(moment)
            process.send_signal(signal.SIGKILL)
            process.wait()
        found = target.read_bytes()
        assert found in {b"old", b"new" * 400_000}
        old += found == b"old"
        write_text(target.with_name("other"), "")
        assert names(target.parent) == [target.name, "other"]
    return old


def test_a_kill_leaves_the_old_file_or_the_new_one_whole(tmp_path):
    assert kill_at_moments(tmp_path / "a", [0.0, 0.3]) >= 1


@pytest.mark.slow
def test_a_kill_at_250_moments_leaves_the_old_file_or_the_new_one_whole(tmp_path):
    old = kill_at_moments(tmp_path / "a", [moment * 0.0004 for moment in range(250)])
    assert 10 < old < 250, "some were killed before the end, some were done"


def test_a_draft_says_where_it_stands(tmp_path):
    draft = Draft(tmp_path / "a")
    try:
        assert draft.path.parent == tmp_path
        assert draft.path == Path(draft.file.name)
    finally:
        draft.close()
    assert names(tmp_path) == []
