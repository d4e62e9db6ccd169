"""The write door of a domain: every store that the host side makes into guest memory goes through it.

It knows where a store goes, so it can be watched, and a watcher can refuse: then nothing is stored. What a program
stores while an engine executes it does not come by; an engine asks `is_watched` before it lets a program write to a
frame, and tells the first write to it (`note_write`). While nobody watches, the door costs nothing.

    domain.write             bytes at a gpa
    write_frames             bytes laid out over frames that need not follow each other
    write_entries            single entries of tables, millions of them
    zero_frames, wipe        zeros; `wipe` gives the memory back to the host
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from twofold.errors import AddressError, NotPresentError, SizeError, WriteRefusedError
from twofold.machine import Hardware
from twofold.machine.gate import look, operation
from twofold.machine.journal import cannot_repeat, journaled
from twofold.p2m import P2M
from twofold.p2m.ranges import Ranges, every_gfn
from twofold.units import FRAME_BYTES, FRAME_SHIFT, INVALID_MFN, format_bytes

Array = npt.NDArray[np.uint64]
HOST: Final = "host"
_WATCHER: Final = "a watcher of stores"
_PART_FRAMES: Final = 1 << 12  # 16 MiB, and
_PART_ENTRIES: Final = 1 << 20  # entries: so much is one record of a journal at most


class Store(NamedTuple):
    """What is about to be stored: for each i, bytes_[i] bytes from offset offsets[i] in the frame gfns[i] on.

    by : who stores: "host", "guest tables", "loader", "wipe", or the name of an engine whose program does
    """

    gfns: Array
    offsets: Array
    bytes_: Array
    by: str


StoreListener = Callable[[Store], object]


class WriteDoor:
    """The door of one domain.

    Parameters
    ----------
    hardware : the machine
    p2m : what translates the domain's gfns
    """

    def __init__(self, hardware: Hardware, p2m: P2M) -> None:
        self.gate = p2m.gate
        self._hardware = hardware
        self._p2m = p2m
        self._watchers: list[tuple[StoreListener, range | None]] = []
        self._caches: list[Callable[[], object]] = []
        self.is_open = True  # whether nobody watches anything

    # -- watching -------------------------------------------------------------------------------------------------

    @operation
    def on_write(self, listener: StoreListener, gfns: range | None = None) -> None:
        """Tell `listener` each store into `gfns` before it happens; None: into all of the domain's memory."""
        if gfns is not None and (gfns.step != 1 or gfns.start < 0):
            raise AddressError("gfn", gfns.start, f"is no first gfn of a range, or its step of {gfns.step} is not 1")
        self._watchers.append((listener, gfns))
        self.is_open = False
        for drop in tuple(self._caches):
            drop()

    def off_write(self, listener: StoreListener) -> None:
        """Stop telling `listener`, whatever it watched."""
        self._watchers = [(each, gfns) for each, gfns in self._watchers if each != listener]
        self.is_open = not self._watchers

    @operation
    def on_watch(self, drop: Callable[[], object]) -> None:
        """Call `drop` when something more is watched: whoever remembers what may be written forgets it."""
        self._caches.append(drop)

    def off_watch(self, drop: Callable[[], object]) -> None:
        """Stop calling `drop`."""
        self._caches.remove(drop)

    @look
    def is_watched(self, gfn: int) -> bool:
        """Return whether somebody wants to know what is stored into a frame."""
        return any(gfns is None or gfn in gfns for _, gfns in self._watchers)

    @look
    def note_write(self, gfn: int, by: str) -> None:
        """Tell that a program is about to write to a frame, somewhere.

        Raises
        ------
        WriteRefusedError : somebody refuses
        """
        self._announce(np.array([gfn], np.uint64), np.uint64(0), np.uint64(FRAME_BYTES), by)

    def _announce(self, gfns: Array, offsets: Any, bytes_: Any, by: str) -> None:
        """Tell a store to who watches where it goes; what one of them raises prevents it."""
        if self.is_open or not len(gfns):
            return
        offsets, bytes_ = (np.broadcast_to(np.asarray(each, np.uint64), gfns.shape) for each in (offsets, bytes_))
        last = gfns + (offsets + np.maximum(bytes_, np.uint64(1)) - np.uint64(1) >> np.uint64(FRAME_SHIFT))
        for listener, where in tuple(self._watchers):
            inside = slice(None) if where is None else (gfns < np.uint64(where.stop)) & (last >= np.uint64(where.start))
            store = Store(gfns[inside], offsets[inside], bytes_[inside], by)
            if len(store.gfns):
                self.gate.call(_WATCHER, _tell, listener, store)

    # -- storing --------------------------------------------------------------------------------------------------

    @operation
    def write_frames(self, gfns: Array, offset: int, data: bytes | npt.NDArray[Any], by: str = HOST) -> None:
        """Store bytes over frames, one after the other, from an offset in the first one on.

        Raises
        ------
        SizeError : the frames are too few
        NotPresentError : one of them is a hole; nothing is stored
        WriteRefusedError : somebody who watches refuses; nothing is stored
        """
        content = np.frombuffer(data, np.uint8)
        if not 0 <= offset < FRAME_BYTES or offset + len(content) > len(gfns) * FRAME_BYTES:
            raise SizeError(format_bytes(len(content)), f"does not fit into {len(gfns)} frames, from {offset:#x} on")
        if not len(content):
            return
        gfns = gfns[: -(-(offset + len(content)) // FRAME_BYTES)]
        self._mfns_of(gfns)
        starts = np.zeros(len(gfns), np.int64)
        starts[0] = offset
        ends = np.minimum(offset + len(content) - np.arange(len(gfns)) * FRAME_BYTES, FRAME_BYTES)
        self._announce(gfns, starts, ends - starts, by)
        here, start = 0, offset
        for first in range(0, len(gfns), _PART_FRAMES):
            part = gfns[first : first + _PART_FRAMES]
            end = here + len(part) * FRAME_BYTES - start
            self._store_frames(part, start, content[here:end].tobytes())
            here, start = end, 0

    @journaled
    def _store_frames(self, gfns: Array, offset: int, data: bytes) -> None:
        """Store bytes over frames; whether they may be is settled."""
        mfns, content = self._mfns_of(gfns), np.frombuffer(data, np.uint8)
        memory = self._hardware.arena.tables.view(np.uint8)
        head = min(-offset % FRAME_BYTES, len(content))
        first = 1 if offset else 0
        if head:
            memory[mfns[0], offset : offset + head] = content[:head]
        whole = (len(content) - head) // FRAME_BYTES
        tail = head + whole * FRAME_BYTES
        memory[mfns[first : first + whole]] = content[head:tail].reshape(whole, FRAME_BYTES)
        if tail < len(content):
            memory[mfns[first + whole], : len(content) - tail] = content[tail:]

    @operation
    def write_entries(self, gfns: Array, slots: Array, entries: npt.NDArray[Any], by: str = HOST) -> None:
        """Store entries of tables: each into a slot of the table in its guest frame.

        entries : uint64, or uint32 for the tables of 2-level guests

        Raises: as `write_frames`
        """
        size = entries.dtype.itemsize
        if size not in {4, 8} or not len(gfns) == len(slots) == len(entries):
            raise SizeError(str(len(entries)), "are no entries of 4 or 8 bytes for as many tables and slots")
        if len(slots) and int(slots.max()) >= FRAME_BYTES // size:
            raise AddressError("slot", int(slots.max()), f"is beyond a table of {FRAME_BYTES // size} entries")
        self._mfns_of(gfns)
        self._announce(gfns, slots * np.uint64(size), np.uint64(size), by)
        for first in range(0, len(gfns), _PART_ENTRIES):
            part = slice(first, first + _PART_ENTRIES)
            self._store_entries(gfns[part], slots[part].astype(np.uint16), entries[part])

    @journaled
    def _store_entries(self, gfns: Array, slots: npt.NDArray[np.uint16], entries: npt.NDArray[Any]) -> None:
        """Store entries of tables; whether they may be is settled."""
        self._hardware.arena.tables_of(entries.dtype)[self._mfns_of(gfns), slots] = entries

    @journaled
    def zero_frames(self, gfns: Array, by: str = HOST) -> None:
        """Fill frames with zeros.

        Raises: as `write_frames`
        """
        mfns = self._mfns_of(gfns)
        self._announce(gfns, np.uint64(0), np.uint64(FRAME_BYTES), by)
        self._hardware.arena.tables[mfns] = 0

    @journaled
    def wipe(self, gfns: Array, frames: Array, by: str = "wipe") -> None:
        """Make what ranges of frames map read as zero; costs what was touched of it. Holes stay holes.

        Raises
        ------
        WriteRefusedError : somebody who watches refuses; nothing is wiped
        """
        mfns = self._p2m.translate(every_gfn(Ranges(gfns, frames)))
        mfns = mfns[mfns < np.uint64(self._hardware.frames)]
        self._announce(gfns, np.uint64(0), frames << np.uint64(FRAME_SHIFT), by)
        self._hardware.arena.discard(mfns, np.ones(len(mfns), np.uint64))

    @operation
    def wipe_all(self, mfns: Array, frames: Array) -> None:
        """Make all of a domain's memory read as zero: these frames, mapped or not."""
        if not self.is_open:
            where, _, lengths = self._p2m.runs(0, self._p2m.max_gfn)
            self._announce(where, np.uint64(0), lengths << np.uint64(FRAME_SHIFT), "wipe")
        self._hardware.arena.discard(mfns, frames)

    def _mfns_of(self, gfns: Array) -> Array:
        """Return the machine frames behind gfns, all of which have to be memory."""
        mfns = self._p2m.translate(gfns)
        if len(mfns) and int(mfns.max()) >= self._hardware.frames:
            beyond = int(np.argmax(mfns >= np.uint64(self._hardware.frames)))
            if mfns[beyond] == np.uint64(INVALID_MFN):
                raise NotPresentError("gpa", int(gfns[beyond]) << FRAME_SHIFT, 0, 0)
            raise AddressError("mfn", int(mfns[beyond]), "is no memory of the machine")
        return mfns


def _tell(listener: StoreListener, store: Store) -> None:
    """Tell a store; a failure of the listener's own is none of the store's, and no journal can repeat it."""
    try:
        listener(store)
    except WriteRefusedError:
        raise
    except BaseException as failure:
        cannot_repeat(failure)
        raise
