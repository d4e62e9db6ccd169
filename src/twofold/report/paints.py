"""How each of several things is told from the others: a colour, and where colours run out, a hatch over it too.

The page's style sheet has the colours, once for light and once for dark, and the hatches of patches; Plotly is given
the names that it has for hatches and dashes. The built-in designs keep their colours, whichever of them take part.
"""

from typing import Final, NamedTuple

from twofold.study import Outcome

COLOURS: Final = 8  # in the style sheet
BUILT_IN: Final = ("small", "toolstack", "opportunistic")
HATCHES: Final = ("", "/", "\\", "x")  # of bars, as Plotly calls them; `.hatch-1` and so on of patches
DASHES: Final = ("solid", "dash", "dot", "dashdot")  # of lines; `.dash-1` and so on


class Paint(NamedTuple):
    """A colour of the style sheet, and which hatch or dash it has; 0 is none."""

    number: int
    hatch: int

    @property
    def colour(self) -> str:
        """The colour as the style sheet's name for it."""
        return f"var(--design-{self.number})"


def paint(place: int) -> Paint:
    """Return the paint of the place among all that are told apart: 32 differ, then they begin again."""
    return Paint(place % COLOURS, place // COLOURS % len(HATCHES))


def design_paints(outcome: Outcome) -> dict[str, Paint]:
    """Return the paint of each variant, the same in every figure and in the tables."""
    labels = {variant: outcome.labels[variant] for variant in outcome.variants}
    own = {variant: BUILT_IN.index(label) for variant, label in labels.items() if label in BUILT_IN}
    left = [place for place in range(COLOURS + len(labels)) if place not in own.values()]
    others = zip((variant for variant in labels if variant not in own), left, strict=False)
    return {variant: paint(place) for variant, place in (own | dict(others)).items()}
