"""The answer of a comparison in a few sentences, for the terminal and for the page; `study.answer` has the figures."""

from twofold.report.grid import UNBROKEN
from twofold.report.words import cpu_name, listed, plain_count, plain_times, share
from twofold.study import Alike, Answer, Best, Gain, ModeAnswer, Outcome, answer_of
from twofold.units import format_bytes, order_name


def headline(outcome: Outcome) -> list[str]:
    """Return the answer, a sentence each; `UNBROKEN` stands where a line must not end."""
    answer = answer_of(outcome)
    sentences = _of_modes(answer) if len(answer.modes) > 1 else _of_one_mode(answer, answer.modes[0])
    if answer.states > 1:
        sentences.append(f"Figures are medians of {answer.states} host states, with their range where it shows.")
    return sentences


def mode_label(name: str, page_sizes: str) -> str:
    """Return a mode with the sizes of its P2M leaves."""
    return f"{' '.join(part for part in name.split() if part != page_sizes)}, {page_sizes}"


def _of_one_mode(answer: Answer, mode: ModeAnswer) -> list[str]:
    """Return the sentences of a comparison in one mode."""
    guest = format_bytes(answer.guest_bytes)
    groups, (first, *others) = mode.groups, mode.groups
    if first.is_small:
        return [f"small alone was built: what large pages give the {guest} guest is not told."]
    same = [_same(group) for group in groups if len(group.names) > 1]
    if not any(group.leaves for group in groups):
        return [*same, f"No design gives the {guest} guest a page larger than 4K."]
    if others:
        return [*same, *(_of_group(answer, mode, group) for group in groups)]
    subject = "They back" if same else f"{first.names[0]} backs"
    backed = f"{subject} {_backed(first)} of the {guest} guest with large pages{_leaves(first)}."
    gains = _gains(answer, first)
    return [*same, backed, *([f"Against {_base(mode)}, {gains}."] if gains else [])]


def _of_modes(answer: Answer) -> list[str]:
    """Return the sentences of a comparison in several modes, one for each and whatever was built differently."""
    groups = [group for mode in answer.modes for group in mode.groups]
    names = {group.names for group in groups}
    if len(names) == 1 and len(answer.modes) == len(groups) and len(groups[0].names) > 1:
        asked = ": who asks makes no difference" if groups[0].asks_alike else ""
        said = [f"{listed(list(groups[0].names))} build the same tables in every mode{asked}."]
        return said + [f"{_label(mode)}: {_in_mode(answer, mode, mode.groups[0])}" for mode in answer.modes]
    return [
        f"{_label(mode)}: {_same_in_mode(group)}{_in_mode(answer, mode, group)}"
        for mode in answer.modes
        for group in mode.groups
    ]


def _label(mode: ModeAnswer) -> str:
    return mode_label(mode.mode, mode.page_sizes)


def _same(group: Alike) -> str:
    asked = ": who asks makes no difference" if group.asks_alike else ""
    return f"{listed(list(group.names))} build the same tables{asked}."


def _same_in_mode(group: Alike) -> str:
    return f"{listed(list(group.names))}, the same tables: " if len(group.names) > 1 else f"{group.names[0]}: "


def _of_group(answer: Answer, mode: ModeAnswer, group: Alike) -> str:
    """Return the sentence of one of several groups."""
    return f"{listed(list(group.names))}: {_in_mode(answer, mode, group)}"


def _in_mode(answer: Answer, mode: ModeAnswer, group: Alike) -> str:
    """Return what came of a group, as the end of a sentence."""
    guest, gains = format_bytes(answer.guest_bytes), _gains(answer, group)
    if not group.leaves:
        return f"no page of the {guest} guest is larger than 4K."
    backed = f"{_backed(group)} of the {guest} guest in large pages{_leaves(group)}"
    return f"{backed}; against {_base(mode)}, {gains}." if gains else f"{backed}."


def _base(mode: ModeAnswer) -> str:
    return "4K only" if mode.is_against_4k else "small"


def _backed(group: Alike) -> str:
    """Return the share in large leaves, with its range."""
    middle, least, greatest = map(share, group.share)
    return middle if least == greatest else f"{middle}{UNBROKEN}[{least}-{greatest}]"


def _leaves(group: Alike) -> str:
    """Return the large leaves in brackets."""
    counts = [
        f"{plain_count(spread[0])}{UNBROKEN}x{UNBROKEN}{order_name(order)}"
        for order, spread in group.leaves.items()
        if spread[0]
    ]
    return f" ({', '.join(counts)})" if counts else ""


def _gains(answer: Answer, group: Alike) -> str:
    """Return how much faster programs run, "" where nothing can be compared."""
    if not group.gains:
        return ""
    first, *others = group.gains
    alone = first.least.workload if answer.workloads == 1 else "programs"
    verb = "runs" if answer.workloads == 1 else "run"
    if answer.is_of_trace:  # what the program takes besides is in no trace
        alone, verb = f"the accesses of {alone}", "are translated"
    pages = "" if first.guest_pages == "4K" else f" with {first.guest_pages} guest pages"
    more = "".join(f", with {gain.guest_pages} guest pages {_upper(gain)}" for gain in others)
    return f"{alone} {verb} {_range(answer, first)} as fast{pages}{more}"


def _range(answer: Answer, gain: Gain) -> str:
    """Return the least and the greatest gain with one guest page size; one figure where they read the same."""
    least, greatest = plain_times(gain.least.factor), plain_times(gain.greatest.factor)
    if least == greatest:
        return least
    return f"{least}{_where(answer, gain.least)} to {greatest}{_where(answer, gain.greatest)}"


def _upper(gain: Gain) -> str:
    least, greatest = plain_times(gain.least.factor), plain_times(gain.greatest.factor)
    return greatest if least == greatest else f"to{UNBROKEN}{greatest}"


def _where(answer: Answer, best: Best) -> str:
    """Return in brackets which program it was, and on which CPU where there are several."""
    parts = ([best.workload] if answer.workloads > 1 else []) + ([cpu_name(best.cpu)] if answer.cpus > 1 else [])
    return f"{UNBROKEN}({f'{UNBROKEN}on{UNBROKEN}'.join(parts)})" if parts else ""
