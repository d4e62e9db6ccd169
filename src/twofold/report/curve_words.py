"""The answer of miss curves in sentences; `study.curve_answer` has the figures."""

from collections.abc import Sequence

from twofold.report.words import count, listed, share
from twofold.study import LITTLE, Curve, CurveAnswer, PageSizeAnswer, curve_answers


def curve_headline(curves: Sequence[Curve]) -> list[str]:
    """Return what curves answer: a sentence for each kind of structure."""
    return [_sentence(answer) for answer in curve_answers(curves)]


def structure_name(sets: int) -> str:
    """Return what a structure of so many sets is called."""
    return "fully associative" if sets == 1 else f"{count(sets)} sets"


def _sentence(answer: CurveAnswer) -> str:
    """Return the sentence of one kind of structure."""
    structure = "" if answer.sets == 1 else f" in {structure_name(answer.sets)}"
    subject = f"With {_entries(answer.entries)}{structure}"
    if not answer.accesses:
        return f"{subject} nothing is told: no access was counted."
    first, *others = answer.page_sizes
    misses = [f"{share(first.misses)} of the accesses miss with {first.page_size} pages"]
    misses += [f"{share(each.misses)} with {each.page_size} pages" for each in others]
    needed = [f"{_needed(each, answer.most)} with {each.page_size} pages" for each in answer.page_sizes]
    return f"{subject} {listed(misses)}; {share(LITTLE)} needs {listed(needed)}."


def _needed(found: PageSizeAnswer, most: int) -> str:
    return f"more than the {_entries(most)} counted" if found.needed is None else _entries(found.needed)


def _entries(number: int) -> str:
    return "1 entry" if number == 1 else f"{count(number)} entries"
