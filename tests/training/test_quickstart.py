"""The built-in recipes do what they are there for."""

from __future__ import annotations

import pytest

from grokscope.measures.crossings import delay, first_hold
from grokscope.runs import open_run
from grokscope.training import read_recipe, train


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_quickstart_groks(tmp_path, seed):
    train(read_recipe("quickstart", seed=seed), tmp_path / "run", device="cpu")
    scalars = open_run(tmp_path / "run").scalars
    steps = scalars["step"]
    fit = first_hold(steps, scalars["accuracy.train"], 0.99)
    grok = first_hold(steps, scalars["accuracy.test"], 0.95)
    unmirrored = first_hold(steps, scalars["accuracy.test_unmirrored"], 0.95)
    grok_99 = first_hold(steps, scalars["accuracy.test"], 0.99)
    assert fit.by is not None
    assert 30 <= fit.by <= 40
    assert grok_99.by is not None
    assert 700 <= grok_99.by <= 1300
    for event in (grok, unmirrored):
        low, high = delay(fit, event)
        assert low is not None
        assert high is not None
        assert 12 <= low <= high
    # it has learned the rule, not the mirror images of what it was shown
    assert scalars["accuracy.test_unmirrored"][-3:].min() >= 0.99
    early = steps <= fit.by
    assert scalars["accuracy.test"][early].max() < 0.1
