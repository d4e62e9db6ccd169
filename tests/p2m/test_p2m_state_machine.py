"""The P2M alone, in every format, against a dict of leaves: set, remove, split, merge, with a pool that runs out."""

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from p2m_model import P2MModel

from kinds import FORMATS
from twofold import kernels, spec

QUICK, MEDIUM = ("npt", "npt-2"), pytest.mark.medium  # one format of each entry width at every change
STEPS, LIVES = 50, 170  # a format: 51,000 steps in all
# A failing life is shown as it was: making it shorter takes longer than reading it.
UNSHORTENED = settings(phases=[Phase.explicit, Phase.reuse, Phase.generate])


def model(table_format: str, engine) -> type[P2MModel]:
    return type("Model", (P2MModel,), {"format": table_format, "engine": engine})


@pytest.mark.medium
@pytest.mark.parametrize(
    "table_format", [name if name in QUICK else pytest.param(name, marks=MEDIUM) for name in FORMATS]
)
def test_the_p2m_keeps_to_its_model(table_format):
    run_state_machine_as_test(model(table_format, kernels), settings=settings(UNSHORTENED, max_examples=4))


@pytest.mark.medium
@pytest.mark.parametrize("table_format", FORMATS)
def test_the_readable_twin_keeps_to_the_model_too(table_format):
    run_state_machine_as_test(
        model(table_format, spec), settings=settings(UNSHORTENED, max_examples=3, stateful_step_count=8)
    )


@pytest.mark.slow
@pytest.mark.parametrize("table_format", FORMATS)
def test_the_p2m_keeps_to_its_model_for_long(table_format):
    run_state_machine_as_test(
        model(table_format, kernels), settings=settings(UNSHORTENED, max_examples=LIVES, stateful_step_count=STEPS)
    )
