"""Real files of other people, read from ``GROKSCOPE_THIRD_PARTY``, against numbers computed elsewhere."""

import json
from pathlib import Path

import pytest
import torch

from grokscope.errors import GrokscopeError
from grokscope.foreign import import_paths, inspect_path
from grokscope.foreign.hypotheses import pair_outcomes
from grokscope.measures.classification import mean_over
from grokscope.runs import open_run

BARE = "Samar-Talwar+grokking-fourier-circuits/runs/full"
GROUPS = "bilal-chughtai+rep-theory-mech-interp/rep_theory/batch_experiments"


def check_against(expected: dict, run, index: int) -> None:
    """Losses to 1e-6 relative, accuracies exactly, over every set of pairs."""
    losses, right = pair_outcomes(run.model, run.params(index), run.task)
    train, mirrored = run.task.train_mask, run.task.mirrored()
    masks = {"full": torch.ones_like(train), "train": train, "test": ~train}
    for name, mask in masks.items():
        assert mean_over(losses, mask).item() == pytest.approx(expected[f"{name}_loss"], rel=1e-6), name
        assert mean_over(right, mask).item() == expected[f"{name}_acc"], name
    assert mean_over(right, mirrored).item() == expected["test_acc_mirrored"]
    assert mean_over(right, ~train & ~mirrored).item() == expected["test_acc_unmirrored"]
    assert int(train.sum()) == expected["n_train"]
    assert (mirrored.sum() / (~train).sum()).item() == pytest.approx(expected["frac_test_mirrored"], rel=1e-6)


@pytest.fixture(scope="module")
def expected(third_party: Path) -> dict:
    return json.loads((third_party / "expected.json").read_text())


def test_the_bare_trajectory(tmp_path: Path, third_party: Path, expected: dict) -> None:
    (imported,) = import_paths([third_party / BARE], tmp_path).runs
    assert imported.path is not None
    run = open_run(imported.path)
    assert run.steps.tolist() == [0, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 7500, 8500]
    for index, step in enumerate(run.steps):
        check_against(expected[f"{BARE}/ckpt_{step}.pt"]["recomputed_float64"], run, index)
    early = next(one for one in imported.audit if one["finding"] == "early test accuracy is mirrored pairs")
    assert early["evidence"].startswith("step 2000: 0.332 = 0.834 mirrored, 0.017 unmirrored")
    verdicts = [one.verdict for one in imported.proof]
    assert (verdicts.count("agrees"), verdicts.count("one step off"), verdicts.count("differs")) == (
        19,
        17,
        0,
    )
    last = [one for one in imported.proof if one.step == 8500]
    assert {one.verdict for one in last} == {"agrees"}
    first = next(one for one in imported.proof if (one.step, one.quantity) == (0, "loss.train"))
    assert first.note == "the first update, replayed, gives 3.960557"
    assert first.recorded == 3.960557


def test_the_transformer_lens_file(tmp_path: Path, third_party: Path, expected: dict) -> None:
    (imported,) = import_paths([third_party / GROUPS / "C113_T_seed1"], tmp_path).runs
    assert imported.path is not None
    run = open_run(imported.path)
    check_against(expected[f"{GROUPS}/C113_T_seed1/model.pt"]["recomputed_float64"], run, 0)
    assert len(imported.proof) == 5
    assert {one.verdict for one in imported.proof} == {"agrees"}
    norm = sum(v.square().sum() for n, v in run.params(0).items() if n in run.model.matrices)
    assert 700 < float(norm) < 1000  # the buffers would make it 1e10


def test_groups_and_mlps_are_answered_clearly(tmp_path: Path, third_party: Path, one_line) -> None:
    for name in ("C113_MLP_seed1", "S5_MLP_seed2"):
        with pytest.raises(GrokscopeError) as caught:
            import_paths([third_party / GROUPS / name], tmp_path)
        one_line(caught.value, "tensors W_x", "W_U", "no known dialect")
    found = inspect_path(third_party / GROUPS)
    assert [run["name"] for run in found["runs"]] == ["C113_T_seed1"]
    assert len(found["skipped"]) == 2


def test_nothing_in_the_collection_ends_in_anything_but_one_line(third_party: Path, one_line) -> None:
    known = (BARE.split("/")[0], GROUPS.split("/")[0])
    for repository in sorted(
        path for path in third_party.iterdir() if path.is_dir() and path.name not in known
    ):
        try:
            found = inspect_path(repository)
        except GrokscopeError as error:
            one_line(error)
            continue
        for one in found["skipped"]:
            assert "\n" not in one["why"]
