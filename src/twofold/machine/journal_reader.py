"""Reading a journal that may come from anywhere; its layout is in `journal`.

Records are read one by one and checked before anything of them is used, so reading takes the memory of one record,
`MAX_RECORD_BYTES` at most. Whatever stands in the file, the only errors are FormatErrors, with the offset of the record
that is not what it should be.
"""

import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from twofold.errors import MOST_SHOWN, DamagedJournalError, FormatError, shown
from twofold.files import open_regular
from twofold.machine.journal import (
    BEGIN,
    END,
    FRAME,
    MAGIC,
    MAX_RECORD_BYTES,
    PACKED,
    START,
    VERSION,
    frame_check,
)
from twofold.machine.journal_values import Callback, Decoder, Name
from twofold.units import format_bytes

_TOO_LONG: Final = (
    "asks for more memory than it may: the record at offset {:#x} has more than {}; max_memory allows more"
)
_FIELDS: Final = (Name, int, Name, tuple, dict, tuple)  # of an operation, but its outcome


@dataclass(frozen=True)
class Call:
    """One operation of a journal.

    offset : where its record begins [bytes]
    target, domid : the class of the object, and whose it is; 0 for the machine's own
    method, args, kwargs : what was called, and with what; functions are `Callback`s
    callbacks : what each function returned, as (answer, times in a row)
    outcome : the name of the exception, or the digest of the answer
    bytes_ : that its record unpacks to
    """

    offset: int
    target: str
    domid: int
    method: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    callbacks: tuple[tuple[tuple[Any, int], ...], ...]
    outcome: Name | int
    bytes_: int = 0

    def __str__(self) -> str:
        return f"{shown(self.target, MOST_SHOWN)}.{shown(self.method, MOST_SHOWN)}" + (
            f" of domain {self.domid}" if self.domid else ""
        )


class JournalReader:
    """The records of one journal.

    Parameters
    ----------
    classes : the enums and records that arguments may be, by name

    Attributes
    ----------
    settings, free : what the machine was made with, and its free map as its file has it
    bytes_, offset : how long the file is, and how far it is read
    most : bytes that a record may unpack to, MAX_RECORD_BYTES or fewer; a caller may set it
    operations : how many were read
    is_closed : whether the end was met: the machine was closed

    Raises
    ------
    FormatError : it cannot be read, or is no journal
    DamagedJournalError : its first record is damaged
    """

    def __init__(self, path: Path, classes: Mapping[str, type[Any]]) -> None:
        self.path = path
        self.offset, self.operations, self.is_closed = 0, 0, False
        self.most, self._unpacked = MAX_RECORD_BYTES, 0
        self._file = open_regular(path)
        try:
            self.bytes_ = os.fstat(self._file.fileno()).st_size
            self._decoder = Decoder(classes)
            self._chain = self._read_start()
            self.settings, self.free = self._read_begin()
        except BaseException:
            self._file.close()
            raise

    def __iter__(self) -> Iterator[Call]:
        """Yield each operation.

        Raises
        ------
        DamagedJournalError : a record that is not whole; those before it were yielded
        """
        while self.offset < self.bytes_:
            here = self.offset
            if self.is_closed:
                raise self._damaged("there is more behind its end")
            values = self._read_record()
            if values[:1] == [END]:
                if values != [END, self.operations]:
                    raise self._damaged("its end counts other operations", here)
                self.is_closed = True
                continue
            call = self._call(here, values)
            self.operations += 1
            yield call

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _read_start(self) -> int:
        start = self._file.read(START.size)
        if not start.startswith(MAGIC) or len(start) < START.size:
            raise FormatError(self.path, "is no journal: it does not begin as one")
        _, version = START.unpack(start)
        if version != VERSION:
            raise FormatError(self.path, f"has version {version}, this program reads {VERSION}")
        self.offset = START.size
        return zlib.crc32(start)

    def _read_begin(self) -> tuple[dict[str, Any], bytes]:
        values = self._read_record()
        if len(values) != 3 or values[0] != BEGIN or type(values[1]) is not dict or type(values[2]) is not bytes:
            raise self._damaged("its first record describes no machine", START.size)
        return values[1], values[2]

    def _read_record(self) -> list[Any]:
        """Return the values of the next record."""
        here = self.offset
        frame = self._file.read(FRAME.size)
        if len(frame) < FRAME.size:
            raise self._damaged(f"the file ends inside a record, {len(frame)} bytes of it are there")
        length, check, crc = FRAME.unpack(frame)
        if check != frame_check(self._chain, length):
            raise self._damaged("the length of a record, or its place, is wrong")
        flag, length = length & PACKED, length & ~PACKED
        left = self.bytes_ - here - FRAME.size
        if length > left:
            raise self._damaged(f"the file ends inside a record, {max(0, left)} of {length} bytes of it are there")
        if length > MAX_RECORD_BYTES:
            raise self._damaged(f"a record has {length} bytes")
        payload = self._file.read(length)
        self._chain = zlib.crc32(payload, self._chain)
        if len(payload) < length or self._chain != crc:
            raise self._damaged("the checksum of a record is wrong")
        try:
            record = _unpacked(payload, self.most) if flag else payload
            if len(record) > self.most:
                raise FormatError(self.path, _TOO_LONG.format(here, format_bytes(self.most)))
            self._unpacked = len(record)
            values = self._decoder.values(record)
        except (ValueError, zlib.error) as error:
            raise self._damaged(str(error)) from None
        self.offset = here + FRAME.size + length
        return values

    def _call(self, offset: int, values: list[Any]) -> Call:
        """Return a record as an operation, its fields of the right kinds."""
        *fields, outcome = values or [None]
        if tuple(map(type, fields)) != _FIELDS or type(outcome) not in {Name, int}:
            raise self._damaged("a record is no operation", offset)
        target, domid, method, args, kwargs, callbacks = fields
        call = Call(offset, target, domid, method, args, kwargs, callbacks, outcome, self._unpacked)
        passed = [each.number for each in (*call.args, *call.kwargs.values()) if isinstance(each, Callback)]
        if passed != list(range(len(call.callbacks))) or not all(map(_is_script, call.callbacks)):
            raise self._damaged("a record has functions that do not fit together", offset)
        return call

    def _damaged(self, problem: str, offset: int | None = None) -> DamagedJournalError:
        return DamagedJournalError(self.path, self.offset if offset is None else offset, self.operations, problem)


def _unpacked(payload: bytes, most: int) -> bytes:
    """Return what a payload was packed from; no more than a record may have, and little more than `most` bytes."""
    reader = zlib.decompressobj()
    data = reader.decompress(payload, most + 1)
    if len(data) > most and most < MAX_RECORD_BYTES:
        return data
    if len(data) > most or not reader.eof or reader.unused_data:
        raise ValueError("a record does not unpack to what it may be")
    return data


def _is_script(answers: object) -> bool:
    """Return whether this says what a function returned, call after call."""
    return type(answers) is tuple and all(
        type(each) is tuple and len(each) == 2 and type(each[1]) is int and each[1] >= 0 for each in answers
    )
