"""Running an audit in steps: over a P2M of ours with frame table and M2P, or over tables of somebody else's."""

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from twofold.errors import SizeError
from twofold.formats import findings as at
from twofold.formats.engine import Engine
from twofold.formats.operands import Findings, KnownFrames, Tables
from twofold.formats.rules import broken_rules
from twofold.formats.table_formats import TableFormat
from twofold.machine import FrameTable, Use
from twofold.machine.arena import sparse_array
from twofold.p2m.results import AuditReport, Finding
from twofold.units import FRAME_SHIFT, Gfn, Mfn, format_bytes

Array = npt.NDArray[np.uint64]
Marks = npt.NDArray[np.uint8]
MAX_FINDINGS: Final = 1000
_STEP: Final = 1 << 22  # entries and frames a step: some 50 ms
_USES: Final = int(Use.RAM), int(Use.TABLES), int(Use.XEN)
_NO_WORDS: Final = np.zeros(0, np.uint64)

Progress = Callable[[int, int], None]


class Within(NamedTuple):
    """What bounds an audit of a machine out of a file; nothing does by default.

    parts : (first, frames) outside of which nobody owns anything; None: the whole machine
    most_frames : entries and frames of leaves to look at; None: all that there are
    """

    parts: list[tuple[int, int]] | None = None
    most_frames: int | None = None


_WHOLE: Final = Within()


class Audit:
    """One audit: `run` it, then `report`.

    Parameters
    ----------
    engine : `kernels` or `spec`
    memory : the machine's frames as tables of this format
    root : mfn of the top table
    progress : called with (done, total) in frames of the machine
    """

    def __init__(
        self,
        engine: Engine,
        table_format: TableFormat,
        memory: Array,
        root: Mfn,
        progress: Progress | None = None,
    ) -> None:
        self._engine = engine.audit
        self._tables = Tables(memory, table_format.shape, int(root))
        self._progress = progress
        self._findings = Findings.room_for(MAX_FINDINGS)

    def of_machine(
        self, table: FrameTable, m2p: Array, orders: Marks, domid: int, within: Within = _WHOLE
    ) -> AuditReport:
        """Audit a domain's P2M against frame table and M2P, and back.

        Parameters
        ----------
        m2p : its complement, as the machine keeps it
        orders : the heap's, which say what is free
        within : where to look, and how much to look at

        Raises
        ------
        SizeError : its leaves name more frames than may be looked at
        """
        frames = len(m2p)
        steps = [step for part in within.parts or [(0, frames)] for step in _steps(*part)]
        marks: Marks = sparse_array(frames, np.uint8)  # type: ignore[assignment]
        for first, count in steps:
            self._engine.mark_owners(table.owner, table.use, domid, _USES, marks, first, count)
        known = KnownFrames(marks, m2p, orders, _NO_WORDS)
        self._walk(known, within.most_frames)
        for first, count in steps:
            self._engine.audit_frames(known, first, count, self._findings)
            self._tell(first + count, frames)
        self._tell(frames, frames)
        return self._report(())

    def of_tables(self, tables: Array) -> AuditReport:
        """Audit tables of which nothing else is known. `tables` : uint64[n], the frames that hold them, ascending."""
        marks: Marks = sparse_array(len(self._tables.memory), np.uint8)  # type: ignore[assignment]
        marks[tables.astype(np.int64)] = at.OWN_TABLE
        self._walk(KnownFrames(marks, _NO_WORDS, np.zeros(0, np.uint8), tables))
        return self._report(("there is no M2P and no frame table: who owns a frame was not checked",))

    def _walk(self, known: KnownFrames, most: int | None = None) -> None:
        cursor = np.zeros(at.CURSOR, np.int64)
        self._engine.start(cursor, self._tables, known.marks, self._findings)
        cursor[at.HAS_OWNERS] = bool(len(known.m2p))
        looked_at = 0
        while self._engine.audit_tables(self._tables, known, cursor, self._findings, _STEP):
            self._tell(0, len(known.marks))
            looked_at += _STEP
            if most is not None and looked_at > most:
                raise SizeError(
                    format_bytes(looked_at << FRAME_SHIFT), "and more is what its leaves map, over and over"
                )

    def _tell(self, done: int, total: int) -> None:
        if self._progress:
            self._progress(done, total)

    def _report(self, skipped: tuple[str, ...]) -> AuditReport:
        counts = self._findings.counts.tolist()
        kept = self._findings.rows[: min(counts[at.FINDINGS], MAX_FINDINGS)].tolist()
        return AuditReport(
            orphans=counts[at.ORPHANS],
            m2p_bad=counts[at.M2P_BAD_FRAMES],
            p2m_bad=counts[at.P2M_BAD_FRAMES],
            findings=tuple(self._finding(*row) for row in kept),
            found=counts[at.FINDINGS],
            tables=counts[at.TABLES],
            leaves=counts[at.PRESENT],
            places=counts[at.PLACES],
            empty_tables=counts[at.EMPTY_TABLES],
            recalc=counts[at.RECALC],
            skipped=skipped,
        )

    def _finding(self, code: int, gfn: int, mfn: int, level: int, entry: int) -> Finding:
        """Return a row as a finding; of a malformed entry, by the rules that it breaks."""
        if code != at.MALFORMED:
            return Finding(code, Gfn(gfn), Mfn(mfn), level, entry, at.SENTENCES[code])
        broken = broken_rules(self._tables.shape, entry, level)
        return Finding(broken[0].code, Gfn(gfn), Mfn(mfn), level, entry, "; ".join(each.says for each in broken))


def _steps(start: int, frames: int) -> list[tuple[int, int]]:
    """Return (first, frames) of steps over a part of a machine's frames."""
    return [(start + done, min(_STEP, frames - done)) for done in range(0, frames, _STEP)]
