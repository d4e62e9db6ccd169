"""Long work on a range of gfns in steps, so that somebody can be told how far it is."""

from collections.abc import Iterator

from twofold.p2m.audit import Progress

_STEP_ORDER = 18  # 1 GiB


def steps_of(gfns: range, progress: Progress | None) -> Iterator[range]:
    """Yield a range in steps that end at multiples of 1 GiB, and tell how far it is after each."""
    here = gfns.start
    while here < gfns.stop:
        end = min(gfns.stop, ((here >> _STEP_ORDER) + 1) << _STEP_ORDER)
        yield range(here, end)
        here = end
        if progress:
            progress(here - gfns.start, len(gfns))
