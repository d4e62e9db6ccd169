"""Exact LRU over sets that are rows, newest first: the readable twin of the vector form.

rows : uint32[sets, lanes], 4, 16 or 64 lanes; lanes beyond the ways, and ways that hold nothing, are all ones
"""

from twofold.formats.arrays import Halves


def touch_rows(rows: Halves, ways: int, sets: Halves, tags: Halves) -> int:
    """Use tags in order, each in its set; return how many were there.

    sets, tags : uint32[uses];  ways : at most the lanes of a row
    """
    hits = 0
    for number, tag in zip(sets.tolist(), tags.tolist(), strict=True):
        row = rows[number, :ways].tolist()
        hits += tag in row
        if tag in row:
            row.remove(tag)
        rows[number, :ways] = [tag, *row][:ways]
    return hits


def touch_rows_scalar(rows: Halves, ways: int, sets: Halves, tags: Halves) -> int:
    """Use tags in order, as `touch_rows`: its kernel does it one way at a time."""
    return touch_rows(rows, ways, sets, tags)
