"""Real files of other people, read from ``GROKSCOPE_THIRD_PARTY``, against numbers computed elsewhere."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from grokscope.foreign import ImportedRun, ImportResult, NoSplit, Split, import_paths
from grokscope.foreign.evidence.proof import verdict_by_save
from grokscope.foreign.function.outcomes import grid_logits
from grokscope.measures.classification import correct, cross_entropy, mean_over
from grokscope.runs import Run, open_run

GROUPS = "bilal-chughtai+rep-theory-mech-interp/rep_theory/batch_experiments"
TRAJECTORY = "unixsysdev+grokking-fourier/phase_transition/phase_transition/checkpoints/default"
REPOSITORIES = (
    "Samar-Talwar+grokking-fourier-circuits",
    "Y-Agent+modular-addition-feature-learning",
    "bilal-chughtai+rep-theory-mech-interp",
    "fjzzq2002+pizza",
    "mechanistic-interpretability-grokking+progress-measures-paper",
    "porth-bot+grokking-transformer",
    "unixsysdev+grokking-fourier",
)


@pytest.fixture(scope="module")
def expected(third_party: Path) -> dict:
    return json.loads((third_party / "expected.json").read_text())


@pytest.fixture(scope="module")
def imported(third_party: Path, tmp_path_factory) -> dict[str, ImportResult]:
    """Every repository, imported by one call and without any option."""
    home = tmp_path_factory.mktemp("imports")
    return {name: import_paths([third_party / name], home / str(i)) for i, name in enumerate(REPOSITORIES)}


@pytest.fixture(scope="module")
def saves(imported, third_party: Path) -> dict[str, tuple[ImportedRun, Run, int]]:
    """Path of every weights file → the run it came in with, that run opened, and the position in it."""
    found = {}
    for result in imported.values():
        for one in result.runs:
            run = open_run(one.path)
            for index, snapshot in enumerate(one.found.source.snapshots):
                found[str(snapshot.path.relative_to(third_party))] = one, run, index
    return found


def test_every_file_comes_in(saves, expected: dict) -> None:
    assert not set(expected) - set(saves)
    assert len(saves) == 66  # those of the table, and the network that multiplies permutations


def test_every_recomputed_number_is_reproduced(saves, expected: dict) -> None:
    """Losses to 1e-6 relative, accuracies exactly, over every set of pairs."""
    checked = 0
    for path, entry in expected.items():
        theirs, (_, run, index) = entry["recomputed_float64"], saves[path]
        logits = grid_logits(run.model, run.params(index), run.task)
        losses, right = cross_entropy(logits, run.task.targets), correct(logits, run.task.targets)
        train = run.task.train_mask
        masks = {"full": torch.ones_like(train)}
        if "n_train" in theirs:
            assert int(train.sum()) == theirs["n_train"], path
            masks |= {"train": train, "test": ~train}
            mirrored = run.task.mirrored()
            assert mean_over(right, mirrored).item() == theirs["test_acc_mirrored"], path
            assert mean_over(right, ~train & ~mirrored).item() == theirs["test_acc_unmirrored"], path
            share = (mirrored.sum() / (~train).sum()).item()
            assert share == pytest.approx(theirs["frac_test_mirrored"], rel=1e-6), path
        for name, mask in masks.items():
            loss = mean_over(losses, mask).item()
            assert loss == pytest.approx(theirs[f"{name}_loss"], rel=1e-6), (path, name)
            assert mean_over(right, mask).item() == theirs[f"{name}_acc"], (path, name)
        checked += 1
    assert checked == 65


def test_recorded_numbers_are_reproduced_or_named(saves, expected: dict) -> None:
    verdicts = {}
    for path, entry in expected.items():
        if entry["author_recorded"] is not None:
            one, run, index = saves[path]
            verdicts[path] = verdict_by_save(one.found.proof)[int(run.steps[index])]
    assert len(verdicts) == 50
    counts = Counter(verdicts.values())
    assert counts["reproduced"] >= 40, counts
    assert not counts["conflict"]
    assert not counts["nothing recorded"]
    # what is not reproduced: rows one update away, six printed decimals, and the floor of float32
    other = {path: verdict for path, verdict in verdicts.items() if verdict != "reproduced"}
    assert other[f"{TRAJECTORY}/checkpoint_e020000.pt"] == "at the precision floor"
    assert {path for path in other if "Samar" not in path} == {f"{TRAJECTORY}/checkpoint_e020000.pt"}


def test_the_split_drawn_on_another_device_is_recovered(saves, third_party: Path) -> None:
    one, run, _ = saves[f"{TRAJECTORY}/checkpoint_e001000.pt"]
    answer = json.loads((third_party / "unixsysdev+grokking-fourier/split_recovered.json").read_text())
    pairs = answer["phase_p113"]["train_pair_index_a_times_p_plus_b"]
    assert isinstance(one.found.split, Split)
    assert one.found.split.source == "recovered"
    assert run.task.train_mask.nonzero().flatten().tolist() == sorted(pairs)


def test_a_split_that_nothing_tells_is_refused(imported) -> None:
    runs = imported["fjzzq2002+pizza"].runs
    assert len(runs) == 4
    for one in runs:
        assert isinstance(one.found.split, NoSplit)
        assert open_run(one.path).task.no_split is not None


def test_the_group_is_read_off_the_answers(saves) -> None:
    one, run, _ = saves[f"{GROUPS}/S5_MLP_seed2/model.pt"]
    assert run.task.operation == "S5"
    assert [row.verdict for row in one.found.proof] == ["reproduced"] * 5
    logits = grid_logits(run.model, run.params(0), run.task)
    assert bool(correct(logits, run.task.targets).all())


FINDINGS = {
    "progress-measures": ("the settings contradict the optimiser state", "weight decay"),
    "C113_T": ("a naive norm would count what is no weight", "IGNORE"),
    "Y-Agent": ("early test accuracy is mirrored pairs", "94 of 133"),
    "Samar": ("early test accuracy is mirrored pairs", "0.332 = 0.834 mirrored, 0.017 unmirrored"),
    "pizza": ("which pairs were trained on is not known", "no save has memorised"),
    "opmul.pt": ("the published model does not solve its task", "142 of 169"),
}


@pytest.mark.parametrize("where", FINDINGS)
def test_the_audit_finds_what_is_odd(saves, where: str) -> None:
    finding, evidence = FINDINGS[where]
    path = next(path for path in saves if where in path)
    told = [one["evidence"] for one in saves[path][0].found.audit if one["finding"] == finding]
    assert any(evidence in one for one in told), told


def test_what_holds_no_weights_is_skipped_with_its_reason(imported) -> None:
    result = imported["mechanistic-interpretability-grokking+progress-measures-paper"]
    (skipped,) = result.skipped
    assert skipped.path.name == "mod_addition_frac_train_sweep.pth"
    assert "loss curves and no weights" in skipped.why


def test_no_norm_counts_a_buffer(saves) -> None:
    _, run, _ = saves[f"{GROUPS}/C113_T_seed1/model.pt"]
    norm = sum(v.square().sum() for n, v in run.params(0).items() if n in run.model.matrices)
    assert 700 < float(norm) < 1000  # the buffers would make it 1e10
