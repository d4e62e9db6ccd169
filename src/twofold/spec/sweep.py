"""Misses of every size of a TLB in one pass, from LRU stack distances. Twin: `kernels.sweep`.

LRU keeps pages in order of use. A page found behind d others of its set is a hit for every number of ways above d and a
miss for all others, so one pass over a trace gives the misses of all of them.

- `count_ways` and `count_sixteen_ways`: sets, each a short stack. `count_sixteen_ways` keeps 32-bit tags, which the
  kernel compares all at once, and stops at an address whose tag is wider.
- `count_distances`: one set of many entries. Each use of a page has a time; the distance is the number of pages whose
  latest use is later. A Fenwick tree counts the times that are *dead*, because their page was used again:

      times   0   1   2   3   4   5   6   now = 7        page a was used at 1, and is used again:
      page    .   a   b   .   c   .   d                  3 later times live (2, 4, 6), so its distance is 3
      dead    x           x       x                      then 1 dies, and 7 is its time

  When times run out, the latest `entries` pages are renumbered from 0 and all others forgotten: their distance is
  beyond what is counted. So memory does not grow with the trace.

Source: Mattson, Gecsei, Slutz and Traiger, "Evaluation techniques for storage hierarchies", IBM Systems Journal 1970;
Bennett and Kruskal, "LRU stack processing", IBM Journal of Research and Development 1975, for counts in a tree.
"""

import numpy as np
import numpy.typing as npt

from twofold.formats.arrays import Halves, Words
from twofold.formats.mixing import GOLDEN, MASK64
from twofold.formats.operands import Uses
from twofold.formats.sweep_state import DEAD, NOW, WIDE


def count_ways(gvas: Words, page_shift: int, out_stacks: Words, out_misses: Words) -> None:
    """Add to `out_misses[ways]` the misses of each number of ways; to `out_misses[0]` every access.

    Parameters
    ----------
    gvas : addresses in order
    page_shift : log2 of the page size [bytes]
    out_stacks : uint64[sets, ways], the tags of each set, latest use first; 0 is empty. A tag is page // sets + 1
    out_misses : uint64[ways + 1]
    """
    sets, ways = out_stacks.shape
    for gva in gvas.tolist():
        page = gva >> int(page_shift)
        position = move_to_front(out_stacks[page % sets], page // sets + 1)
        out_misses[: min(position, ways) + 1] += np.uint64(1)


def count_sixteen_ways(gvas: Words, page_shift: int, out_stacks: Halves, out_misses: Words) -> int:
    """Do as `count_ways` for 16 ways with 32-bit tags; return how many addresses were counted.

    Parameters
    ----------
    gvas, page_shift, out_misses : as there; fewer than 2**32 addresses
    out_stacks : uint32[sets, 16], each row in a cache line

    Returns
    -------
    counted : all of them, or those before the first whose tag needs more than 32 bits
    """
    sets = len(out_stacks)
    for i, gva in enumerate(gvas.tolist()):
        page = gva >> int(page_shift)
        if page // sets + 1 >= WIDE:
            return i
        position = move_to_front(out_stacks[page % sets], page // sets + 1)
        out_misses[: position + 1] += np.uint64(1)
    return len(gvas)


def move_to_front(stack: npt.NDArray[np.unsignedinteger], tag: int) -> int:
    """Put a tag in front of the stack of a set; return how far back it was, the length of the stack if nowhere."""
    tags = stack.tolist()
    position = tags.index(tag) if tag in tags else len(tags)
    stack[:] = [tag, *tags[:position], *tags[position + 1 :]][: len(tags)]
    return position


def count_distances(gvas: Words, page_shift: int, out_uses: Uses, out_histogram: Words) -> None:
    """Add to `out_histogram[distance]` each address whose page was used before, to its last word all others.

    Parameters
    ----------
    gvas : addresses in order
    page_shift : log2 of the page size [bytes]
    out_uses : to begin with all zero
    out_histogram : uint64[entries + 1], fewer entries than times; last are pages used the first time, or too long ago
    """
    out_page_at, out_dead, out_keys, out_times, out_state = out_uses
    entries, hash_shift = len(out_histogram) - 1, 65 - len(out_keys).bit_length()
    for gva in gvas.tolist():
        key, now = (gva >> int(page_shift)) + 1, int(out_state[NOW])
        if now and int(out_page_at[now - 1]) == key:  # the page of the latest use: nothing changes
            out_histogram[0] += np.uint64(1)
            continue
        if now == len(out_page_at):
            renumber(entries, out_uses)
        now, dead = out_state.tolist()
        place = find(out_keys, hash_shift, key)
        if int(out_keys[place]) == key:
            time = int(out_times[place])
            later = now - 1 - time - (dead - sum_up_to(out_dead, time))
            out_histogram[min(later, entries)] += np.uint64(1)
            add_at(out_dead, time)
            out_page_at[time] = 0
            out_state[DEAD] = dead + 1
        else:
            out_histogram[entries] += np.uint64(1)
            out_keys[place] = key
        out_page_at[now] = key
        out_times[place] = now
        out_state[NOW] = now + 1


def find(keys: Words, hash_shift: int, key: int) -> int:
    """Return the place of a key in a hash table, or the empty one where it belongs: the next free from its hash on."""
    place = (key * GOLDEN & MASK64) >> hash_shift
    while int(keys[place]) not in {0, key}:
        place = (place + 1) % len(keys)
    return place


def sum_up_to(tree: Halves, time: int) -> int:
    """Return how many times up to this one are dead: node n counts the last (n & -n) times before n."""
    node, total = time + 1, 0
    while node:
        total += int(tree[node])
        node &= node - 1
    return total


def add_at(tree: Halves, time: int) -> None:
    """Count one time as dead in every node that covers it."""
    node = time + 1
    while node < len(tree):
        tree[node] += np.uint32(1)
        node += node & -node


def renumber(entries: int, out_uses: Uses) -> None:
    """Give the latest `entries` pages the first times, in their order, and forget all others."""
    out_page_at, out_dead, out_keys, out_times, out_state = out_uses
    live = [key for key in out_page_at.tolist() if key][-entries:]
    hash_shift = 65 - len(out_keys).bit_length()
    for array in (out_page_at, out_dead, out_keys, out_state):
        array[:] = 0
    for time, key in enumerate(live):
        out_page_at[time] = key
        place = find(out_keys, hash_shift, key)
        out_keys[place], out_times[place] = key, time
    out_state[NOW] = len(live)
