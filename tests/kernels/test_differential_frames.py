"""Frame table and M2P: kernels against twins and against plain slices."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from twofold import kernels, spec

FRAMES = 256
RUNS = st.lists(
    st.tuples(st.integers(0, FRAMES - 1), st.integers(0, 40)).map(lambda run: (run[0], min(run[1], FRAMES - run[0]))),
    max_size=6,
)


def arrays(runs):
    """Return (mfns, frames) as kernels take them."""
    table = np.array(runs, np.uint64).reshape(-1, 2)
    return table[:, 0].copy(), table[:, 1].copy()


@given(RUNS, st.integers(1, 0xFFFF), st.integers(0, 255), RUNS)
def test_owner_and_use_of_runs_are_written_and_found_alike(runs, domid, purpose, asked):
    owners, uses, answers = [], [], []
    for engine in (spec, kernels):
        owner, use = np.full(FRAMES, 7, np.uint16), np.full(FRAMES, 3, np.uint8)
        engine.frames.set_owner(owner, use, *arrays(runs), domid, purpose)
        owners.append(owner.tolist())
        uses.append(use.tolist())
        answers.append(bool(engine.frames.owned_by(owner, use, *arrays(asked), domid, purpose)))
    written = {mfn for start, length in runs for mfn in range(start, start + length)}
    assert owners[0] == owners[1] == [domid if mfn in written else 7 for mfn in range(FRAMES)]
    assert uses[0] == uses[1] == [purpose if mfn in written else 3 for mfn in range(FRAMES)]
    wanted = {mfn for start, length in asked for mfn in range(start, start + length)}
    held = written | (set(range(FRAMES)) if (domid, purpose) == (7, 3) else set())
    assert answers[0] == answers[1] == (wanted <= held)


@given(RUNS, RUNS)
def test_one_frame_of_another_use_or_owner_is_noticed(runs, others):
    for engine in (spec, kernels):
        owner, use = np.full(FRAMES, 1, np.uint16), np.full(FRAMES, 1, np.uint8)
        engine.frames.set_owner(owner, np.zeros_like(use), *arrays(others), 2, 1)
        free = not {mfn for start, length in others for mfn in range(start, start + length)} & {
            mfn for start, length in runs for mfn in range(start, start + length)
        }
        assert bool(engine.frames.owned_by(owner, use, *arrays(runs), 1, 1)) is free
        assert bool(engine.frames.owned_by(np.ones_like(owner), use, *arrays(runs), 1, 2)) is not any(
            length for _, length in runs
        )


@given(RUNS, st.lists(st.integers(0, 1 << 36), min_size=6, max_size=6), RUNS)
def test_the_m2p_is_set_and_cleared_alike(runs, gfns, cleared):
    tables = []
    for engine in (spec, kernels):
        m2p = np.zeros(FRAMES, np.uint64)
        mfns, lengths = arrays(runs)
        engine.frames.set_m2p(m2p, mfns, np.array(gfns[: len(runs)], np.uint64), lengths)
        engine.frames.clear_m2p(m2p, *arrays(cleared))
        tables.append((~m2p).tolist())
    model = [2**64 - 1] * FRAMES
    for (start, length), gfn in zip(runs, gfns, strict=False):
        model[start : start + length] = range(gfn, gfn + length)
    for start, length in cleared:
        model[start : start + length] = [2**64 - 1] * length
    assert tables[0] == tables[1] == model
