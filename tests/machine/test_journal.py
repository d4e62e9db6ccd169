"""The journal's file: what is recorded, what a damaged one says, and what a killed process leaves."""

import contextlib
import errno
import itertools
import os
import signal
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twofold.errors import DamagedJournalError, FormatError, SizeError
from twofold.machine.gate import Gate
from twofold.machine.journal import (
    FRAME,
    MAX_RECORD_BYTES,
    PACKED,
    START,
    VERSION,
    Journal,
    digest_of,
    frame_check,
    is_journaled,
    journaled,
    journaled_methods,
)
from twofold.machine.journal_reader import JournalReader


class Account:
    """Something with operations."""

    def __init__(self) -> None:
        self.gate = Gate("an account")
        self.total = 0

    @journaled
    def add(self, amount, *, times=1, ask=None):
        for _ in range(times):
            if ask is not None and ask():
                return self.total
            self.total += amount if isinstance(amount, int) else len(amount)
        return self.total

    @journaled
    def add_twice(self, amount):
        self.add(amount)
        return self.add(amount)

    @journaled
    def fail(self, error):
        raise {"value": ValueError, "interrupt": KeyboardInterrupt}[error]

    def look(self):
        return self.total


@pytest.fixture
def journal(tmp_path):
    journal = Journal(tmp_path / "a.journal", {"seed": 5}, b"free map")
    yield journal
    journal.close()


@pytest.fixture
def account(journal):
    account = Account()
    journal.watch(3, account)
    return account


def calls(journal):
    with JournalReader(journal.path, {}) as reader:
        return [(each.method, each.args, each.kwargs, each.outcome) for each in reader]


def closed_file(folder, steps=3) -> bytes:
    journal, account = Journal(folder / "b.journal", {"seed": 5}, b"free map" * 30), Account()
    journal.watch(1, account)
    for step in range(steps):
        account.add(step)
    journal.close()
    return journal.path.read_bytes()


def read(path):
    with JournalReader(path, {}) as reader:
        return list(reader), reader


# -- recording --------------------------------------------------------------------------------------------------


def test_a_call_is_written_with_its_object_arguments_and_the_digest_of_its_answer(journal, account):
    assert account.add(7, times=2) == 14
    account.look()
    with JournalReader(journal.path, {}) as reader:
        assert (reader.settings, reader.free) == ({"seed": 5}, b"free map")
        (call,) = reader
        assert not reader.is_closed
    assert (call.target, call.domid, str(call)) == ("Account", 3, "Account.add of domain 3")
    assert (call.args, call.kwargs, call.outcome) == ((7,), {"times": 2}, digest_of(14))


def test_what_an_operation_calls_itself_is_not_written(journal, account):
    account.add_twice(4)
    assert [method for method, *_ in calls(journal)] == ["add_twice"]


def test_an_operation_that_fails_is_written_with_its_error_and_the_next_one_is_too(journal, account):
    with pytest.raises(ValueError, match="value"):
        raise_value(account)
    account.add(1)
    assert [(method, outcome) for method, _, _, outcome in calls(journal)] == [
        ("fail", "ValueError"),
        ("add", digest_of(1)),
    ]


def raise_value(account):
    try:
        account.fail("value")
    except ValueError as error:
        raise ValueError("value") from error


def test_an_operation_that_is_interrupted_ends_the_journal_before_it(journal, account):
    account.add(1)
    with pytest.raises(KeyboardInterrupt):
        account.fail("interrupt")
    assert account.add(2) == 3, "work goes on, without a journal"
    assert len(calls(journal)) == 1


def test_a_function_that_is_passed_is_written_as_what_it_returned(journal, account):
    answers = iter([False, False, np.False_, True])
    account.add(5, times=9, ask=lambda: next(answers))
    account.add(5, times=2, ask=lambda: None)
    with JournalReader(journal.path, {}) as reader:
        first, second = reader
    assert first.callbacks == (((False, 2), (np.False_, 1), (True, 1)),)
    assert second.callbacks == (((None, 2),),)


def test_a_function_that_raises_or_answers_nonsense_is_written_as_having_raised(journal, account):
    with pytest.raises(ZeroDivisionError):
        account.add(5, times=9, ask=lambda: 1 // 0)
    with pytest.raises(TypeError, match="that a function returned"):
        account.add(5, times=9, ask=list)
    with JournalReader(journal.path, {}) as reader:
        assert [each.callbacks for each in reader] == [(((None, 0),),)] * 2


def test_an_argument_that_the_operation_changes_is_written_as_it_was_passed(journal, account):
    numbers = [1, 2, 3]
    account.add(numbers)
    numbers.clear()
    assert calls(journal)[0][1] == ([1, 2, 3],)


@pytest.mark.parametrize("amount", [1.5, [[print]]])
def test_what_cannot_be_written_is_not_done(journal, account, amount):
    with pytest.raises(TypeError, match="a journal can"):
        account.add(amount)
    assert account.total == 0
    account.add(1)
    assert len(calls(journal)) == 1


def test_a_call_that_is_too_large_for_a_record_is_not_done(journal, account):
    with pytest.raises(SizeError, match="one record of a journal"):
        account.add(bytes(MAX_RECORD_BYTES))
    assert account.total == 0


def test_large_arguments_are_packed(journal, account):
    account.add(np.arange(100_000, dtype=np.uint64))
    assert journal.path.stat().st_size < 400_000
    ((_, (numbers,), _, _),) = calls(journal)
    assert np.array_equal(numbers, np.arange(100_000))


def test_objects_without_a_journal_stay_as_they_are():
    account = Account()
    assert vars(account).keys() == {"gate", "total"}
    assert account.add.__func__ is Account.add
    assert Account.add.__name__ == "add"
    assert is_journaled(Account, "add")
    assert not is_journaled(Account, "look")
    assert not is_journaled(Account, "no_such_method")
    assert journaled_methods(Account) == ["add", "add_twice", "fail"]


def test_the_end_is_written_once_and_nothing_behind_it(journal, account):
    account.add(1)
    journal.close()
    account.add(1)
    journal.close()
    found, reader = read(journal.path)
    assert (len(found), reader.is_closed, account.total) == (1, True, 2)


def test_a_journal_that_cannot_be_written_is_refused_at_once(tmp_path):
    for path in (tmp_path, tmp_path / "no" / "x.journal"):
        with pytest.raises(FormatError):
            Journal(path, {}, b"")


def test_a_full_disk_is_told_once_and_the_journal_is_good_up_to_there(journal, account, monkeypatch):
    class Full:
        closed = False

        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self):
            self.closed = True

    account.add(1)
    journal._file.close()
    monkeypatch.setattr(journal, "_file", Full())
    with pytest.raises(FormatError, match=r"No space left on device; what is done from now on is not recorded"):
        account.add(1)
    assert account.add(1) == 3
    assert len(read(journal.path)[0]) == 1


def test_a_write_that_is_cut_short_is_a_full_disk(journal, account, monkeypatch):
    file = journal._file

    class Nearly:
        closed = False

        def write(self, data):
            return file.write(data[:10])

        def close(self):
            self.closed = True
            file.close()

    monkeypatch.setattr(journal, "_file", Nearly())
    with pytest.raises(FormatError, match="the disk is full"):
        account.add(1)
    with pytest.raises(DamagedJournalError, match=r"after 0 whole operations: the file ends inside a record"):
        read(journal.path)


KILLED = """
import os, signal, sys
sys.path.insert(0, {folder!r})
from pathlib import Path
from twofold.machine.journal import Journal
from test_journal import Account
journal, account = Journal(Path({path!r}), {{}}, b""), Account()
journal.watch(1, account)
for number in range(1000):
    account.add(number)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.medium
def test_a_killed_process_leaves_every_operation_that_it_finished(tmp_path):
    path = tmp_path / "killed.journal"
    code = KILLED.format(folder=os.path.dirname(__file__), path=str(path))  # noqa: PTH120
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
    found, reader = read(path)
    assert ([call.args for call in found], reader.is_closed) == ([(number,) for number in range(1000)], False)


# -- damage -----------------------------------------------------------------------------------------------------


def starts_of(data: bytes) -> list[int]:
    """Return where each record begins, and where the file ends."""
    here, found = START.size, []
    while here < len(data):
        found.append(here)
        here += FRAME.size + (FRAME.unpack_from(data, here)[0] & ~PACKED)
    return [*found, here]


def test_a_journal_cut_anywhere_says_where_and_how_many_operations_are_whole(tmp_path):
    data, path = closed_file(tmp_path), tmp_path / "cut.journal"
    starts = starts_of(data)
    for length in range(starts[1], len(data)):
        path.write_bytes(data[:length])
        whole = max(number for number, start in enumerate(starts) if start <= length) - 1
        if length in starts:
            found, reader = read(path)
            assert (len(found), reader.is_closed) == (whole, False)
            continue
        with pytest.raises(DamagedJournalError, match="the file ends inside a record") as caught:
            read(path)
        assert (caught.value.offset, caught.value.operations) == (starts[whole + 1], whole)


def test_a_journal_cut_in_its_beginning_is_no_journal(tmp_path):
    data, path = closed_file(tmp_path), tmp_path / "cut.journal"
    for length in range(starts_of(data)[1]):
        path.write_bytes(data[:length])
        with pytest.raises(FormatError, match=r"it does not begin as one|the file ends inside a record"):
            read(path)


def test_each_flipped_bit_is_found_at_its_record(tmp_path):
    data, path = closed_file(tmp_path), tmp_path / "flipped.journal"
    starts = starts_of(data)
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        with pytest.raises(FormatError) as caught:
            read(path)
        if place >= START.size:
            assert caught.value.offset == max(start for start in starts if start <= place)


def test_a_record_taken_out_repeated_or_moved_is_found(tmp_path):
    data, path = closed_file(tmp_path, steps=4), tmp_path / "moved.journal"
    starts = starts_of(data)[1:]
    parts = [data[start:end] for start, end in itertools.pairwise(starts)]
    head = data[: starts[0]]
    for order in ([1, 2, 3, 4], [0, 0, 1, 2, 3, 4], [1, 0, 2, 3, 4], [0, 2, 1, 3, 4]):
        path.write_bytes(head + b"".join(parts[number] for number in order))
        with pytest.raises(DamagedJournalError, match="its place, is wrong"):
            read(path)


def test_what_stands_behind_the_end_is_found(tmp_path):
    path = tmp_path / "longer.journal"
    path.write_bytes(closed_file(tmp_path) + b"x")
    with pytest.raises(DamagedJournalError, match="more behind its end"):
        read(path)


def forged(*payloads: bytes, packed: bool = False, length: int | None = None) -> bytes:
    """Return a journal whose checksums are right, whatever stands in it."""
    out, chain = START.pack(b"TWOJRNL\n", VERSION), zlib.crc32(START.pack(b"TWOJRNL\n", VERSION))
    for payload in payloads:
        said = (len(payload) if length is None else length) | (PACKED if packed else 0)
        crc = zlib.crc32(payload, chain)
        out += FRAME.pack(said, frame_check(chain, said), crc) + payload
        chain = crc
    return out


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "does not begin"),
        (b"TWOJRNL\n\x01\0\0\0", "has version 1, this program reads 2"),
        (b"TWOJRNL\n\x03\0\0\0", "version 3"),
        (forged(), "0 bytes of it are there"),
        (forged(b""), "describes no machine"),
        (forged(b"\x03\x04"), "describes no machine"),
        (forged(b"\x00", length=MAX_RECORD_BYTES + 1), "ends inside a record"),
        (forged(b"no zlib", packed=True), "incorrect header"),
        (forged(zlib.compress(bytes(MAX_RECORD_BYTES + 1), level=1), packed=True), "does not unpack"),
        (forged(zlib.compress(b"\0")[:-1], packed=True), "does not unpack"),
        (forged(zlib.compress(b"\0") + b"x", packed=True), "does not unpack"),
    ],
)
def test_a_forged_journal_is_refused(tmp_path, data, problem):
    path = tmp_path / "forged.journal"
    path.write_bytes(data)
    with pytest.raises(FormatError, match=problem):
        read(path)


def test_a_record_that_says_to_be_huge_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "huge.journal"
    path.write_bytes(forged(b"\x00", length=MAX_RECORD_BYTES + 1))
    os.truncate(path, 1 << 40)  # a sparse file: there is as much as it says
    with pytest.raises(DamagedJournalError, match="a record has 67108865 bytes"):
        read(path)


@pytest.mark.parametrize("name", ["missing.journal", "folder", "pipe", "bad\0name"])
def test_what_is_no_file_is_refused(tmp_path, name):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FormatError, match=r"cannot be read|no regular file"):
        read(tmp_path / name)


@given(payloads=st.lists(st.binary(max_size=60), max_size=3), packed=st.booleans())
def test_any_forged_journal_ends_in_a_format_error_or_operations(tmp_path_factory, payloads, packed):
    path = tmp_path_factory.getbasetemp() / "any.journal"
    begin = b"\x06\x00\x05Begin\x09\x00\x04\x00"
    parts = [zlib.compress(each) for each in (begin, *payloads)] if packed else [begin, *payloads]
    path.write_bytes(forged(*parts, packed=packed))
    with contextlib.suppress(DamagedJournalError):
        read(path)
