"""What a page says of the interventions in a run."""

from __future__ import annotations

import pytest

from grokscope.report.interventions import interventions


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({}, []),
        ({"clamp": {"norm": 54.5, "rho": 0.9, "start": 500, "once": False, "tensors": ["matrices"]}},
         ["norm held at 49.05 from step 500"]),
        ({"clamp": {"norm": 54.5, "rho": 1.0, "start": 500, "once": True, "tensors": ["head"]}},
         ["norm of head set to 54.5 at step 500"]),
        ({"temperature": 1.0, "frozen": [], "lr": {}, "decay": {}}, []),
        ({"temperature": 1.3, "frozen": ["embedding"], "lr": {"head": 0.1}, "decay": {"biases": 0.0, "head": 2.0}},
         ["temperature 1.3", "embedding frozen", "rate of head × 0.1", "no decay of biases",
          "decay of head × 2"]),
    ],
)  # fmt: skip
def test_interventions_in_words(table: dict, said: list[str]) -> None:
    assert interventions({"intervene": table}) == said


def test_a_run_that_was_left_alone_says_nothing() -> None:
    assert interventions({"train": {"steps": 3}}) == []
    assert interventions({"intervene": "odd"}) == []
