"""Domains of every format live and die on one machine, every operation may fail at any time, and nothing is lost."""

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from machine_model import MachineModel

STEPS, LIVES = 50, 1000  # 50,000 steps
# A failing life is shown as it was: making it shorter takes longer than reading it.
UNSHORTENED = settings(phases=[Phase.explicit, Phase.reuse, Phase.generate])


def test_a_machine_keeps_to_its_model():
    run_state_machine_as_test(MachineModel, settings=settings(UNSHORTENED, max_examples=12, stateful_step_count=30))


@pytest.mark.slow
def test_a_machine_keeps_to_its_model_for_50000_steps():
    run_state_machine_as_test(
        MachineModel, settings=settings(UNSHORTENED, max_examples=LIVES, stateful_step_count=STEPS)
    )
