r"""The journal of a machine: every operation on it, written down as it is done, so that it can be done again.

    bytes   0..7         8..11      12..
            "TWOJRNL\n"  version    records, one after the other, to the end of the file; little endian

    record  0..3         4..5                        6..9                     10..
            length, and  check: CRC-32 of the        CRC-32 of the payload    payload, zlib where that is
            bit 31 zlib  length, its low 16 bits                              shorter
            (both CRCs go on from the record before, so none can be taken out or change its place)

    payload of the first record : "Begin", settings of the machine, its free map as it would be saved
            of an operation     : object, domid, method, arguments, named arguments, callbacks, outcome
            of the last one     : "End", operations, when the machine was closed

`journal_values` has the layout of the values. The outcome is the name of the exception, or the CRC-32 of the answer. A
function that was passed is written as what it returned, call after call. Only the outermost call counts: what an
operation does itself is not written. A record is one write, after the operation: a killed process leaves a journal up
to the last operation that it finished.

A class marks the methods that change the machine with `@journaled`, which costs nothing: the objects of a machine that
has a journal get recording methods of their own (`Journal.watch`), all others stay as they are. `domain.replay` does
the operations again.
"""

import functools
import inspect
import struct
import threading
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

from twofold.errors import FormatError, SizeError
from twofold.files import begin_growing
from twofold.machine.gate import hold, is_gated, operation
from twofold.machine.journal_values import Encoder, Name
from twofold.units import format_bytes

MAGIC: Final = b"TWOJRNL\n"
VERSION: Final = 2  # 1: its checkpoints are digests that did not cover all that decides
START: Final = struct.Struct("<8sI")
FRAME: Final = struct.Struct("<IHI")
LENGTH: Final = struct.Struct("<I")
PACKED: Final = 1 << 31
MAX_RECORD_BYTES: Final = 64 << 20  # unpacked: four million gfns with their mfns
BEGIN: Final = Name("Begin")
END: Final = Name("End")
RAISED: Final = (None, 0)  # instead of an answer: the function that was passed has raised
_PACK_FROM: Final = 128  # bytes; below, zlib's own header eats what it saves
_MARK: Final = "_twofold_is_journaled"
_UNREPEATABLE: Final = "_twofold_cannot_be_repeated"

Method = TypeVar("Method", bound=Callable[..., Any])


def journaled(method: Method) -> Method:
    """Make a method an operation on the machine, which goes through its gate, and which a journal writes down."""
    gated = method if is_gated(method) else operation(method)
    setattr(gated, _MARK, True)
    return gated


def journaled_methods(kind: type) -> list[str]:
    """Return the names of the methods of a class that are marked; an override needs a mark of its own."""
    return [name for name in dir(kind) if is_journaled(kind, name)]


def is_journaled(kind: type, name: str) -> bool:
    """Return whether a class has a method of this name that is marked."""
    return bool(getattr(inspect.getattr_static(kind, name, None), _MARK, False))


def cannot_repeat(failure: BaseException) -> None:
    """Mark what somebody raised who only listens: he is not there in a replay, so the journal ends before it."""
    setattr(failure, _UNREPEATABLE, True)


def digest_of(answer: object) -> int:
    """Return a short digest of what an operation answered; of an object, that it is one."""
    encoder = Encoder()
    try:
        encoder.put(answer)
    except TypeError:
        return zlib.crc32(type(answer).__name__.encode())
    return zlib.crc32(encoder.finish())


def frame_check(chain: int, length: int) -> int:
    """Return the check of a record's length."""
    return zlib.crc32(LENGTH.pack(length), chain) & 0xFFFF


class Journal:
    """Writes the journal of one machine.

    Parameters
    ----------
    path : the file; one that is there is replaced
    settings : what the machine was made with, by name
    free : the free map that it started from, as its file has it

    Raises
    ------
    FormatError : the file cannot be written
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], free: bytes) -> None:
        self.path = path
        self.operations = 0
        self._encoder = Encoder()
        self._chain = zlib.crc32(START.pack(MAGIC, VERSION))
        self._inside = threading.Lock()  # held while an operation is running: what it calls is part of it
        with begin_growing(path) as self._file:
            self._write(START.pack(MAGIC, VERSION))
            self._put(BEGIN, dict(settings), free)
            self._append()

    def watch(self, domid: int, *objects: object) -> None:
        """Record the marked methods of objects from now on; a domid of 0 says that they are the machine's own."""
        for each in objects:
            for name in journaled_methods(type(each)):
                setattr(each, name, self._recording(each, domid, getattr(each, name)))

    def close(self) -> None:
        """Write that this is the end; operations are no longer recorded."""
        if not self._file.closed:
            self._put(END, self.operations)
            self._append()
            self._file.close()

    def let_go(self) -> None:
        """Write nothing more, in a child that was forked: the file is the parent's."""
        self._file.close()

    def _recording(self, target: Any, domid: int, method: Callable[..., Any]) -> Callable[..., Any]:
        """Return a method that does the same and is written down."""
        gate, name, kind = target.gate, method.__qualname__, type(target).__name__

        def enter(*args: Any, **kwargs: Any) -> Any:
            if self._inside.locked() or self._file.closed or gate.is_over:
                return method(*args, **kwargs)
            gate.check_called(name)  # what a replay could not ask for is in no journal
            heard_args = tuple(_heard(each) for each in args)
            heard = {name: _heard(each) for name, each in kwargs.items()}
            # Before the operation: it may change what it is given, and what cannot be written must not be done.
            what = Name(kind), domid, Name(method.__name__), heard_args, heard
            callbacks = gate.call("what an operation is given", self._put, *what)
            return hold(self._inside, self._record, method, heard_args, heard, callbacks)

        @functools.wraps(method)
        def record(*args: Any, **kwargs: Any) -> Any:
            return hold(gate.lock, enter, *args, **kwargs)

        return record

    def _record(
        self,
        method: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        callbacks: list["_Heard"],
    ) -> Any:
        """Do an operation and write it down, also when it fails. One that is interrupted cannot be done again."""
        try:
            answer = method(*args, **kwargs)
        except Exception as error:
            if (
                getattr(error, _UNREPEATABLE, False) or self._file.closed
            ):  # closed: in a child that was forked meanwhile
                self._file.close()
            else:
                self._finish(callbacks, Name(type(error).__name__))
            raise
        except BaseException:
            self._file.close()
            raise
        self._finish(callbacks, digest_of(answer))
        return answer

    def _put(self, *values: object) -> list["_Heard"]:
        """Begin a record with these values; return the functions among them."""
        self._encoder.begin()
        for value in values:
            self._encoder.put(value)
        if len(self._encoder) > MAX_RECORD_BYTES:
            most = format_bytes(MAX_RECORD_BYTES)
            raise SizeError(
                format_bytes(len(self._encoder)), f"is too much for one record of a journal: {most} at most"
            )
        callbacks = [each for each in self._encoder.callbacks if isinstance(each, _Heard)]
        if len(callbacks) < len(self._encoder.callbacks):
            raise TypeError("a journal can listen to a function only if it is an argument itself")
        return callbacks

    def _finish(self, callbacks: list["_Heard"], outcome: Name | int) -> None:
        self._encoder.put(tuple(tuple(each.answers) for each in callbacks))
        self._encoder.put(outcome)
        self.operations += 1
        self._append()

    def _append(self) -> None:
        """Write the record that was put."""
        payload, flag = self._encoder.finish(), 0
        if len(payload) >= _PACK_FROM:
            packed = zlib.compress(payload, 1)
            if len(packed) < len(payload):
                payload, flag = packed, PACKED
        length = len(payload) | flag
        crc = zlib.crc32(payload, self._chain)
        self._write(FRAME.pack(length, frame_check(self._chain, length), crc) + payload)
        self._chain = crc

    def _write(self, data: bytes) -> None:
        """Write all of it; when that cannot be done, nothing is recorded from now on."""
        reason, done = "the disk is full", 0
        try:
            done = self._file.write(data)
        except OSError as error:
            reason = error.strerror or str(error)
        finally:
            if done < len(data):
                self._file.close()
        if done < len(data):
            raise FormatError(self.path, f"cannot be written: {reason}; what is done from now on is not recorded")


class _Heard:
    """A function that was passed, and what it returned: [answer, times in a row]."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.answers: list[tuple[Any, int]] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            answer = _plain(self._function(*args, **kwargs))
        except BaseException:
            self.answers.append(RAISED)
            raise
        last, times = self.answers[-1] if self.answers else RAISED
        if times and type(last) is type(answer) and last == answer:
            self.answers[-1] = last, times + 1
        else:
            self.answers.append((answer, 1))
        return answer


def _plain(answer: Any) -> Any:
    """Return what a function has returned, if a journal can hold it."""
    if isinstance(answer, int | np.generic | None):
        return answer
    raise TypeError(f"a journal cannot hold a {type(answer).__name__} that a function returned")


def _heard(value: Any) -> Any:
    """Return a function as one that is listened to; anything else as it is."""
    return _Heard(value) if callable(value) else value
