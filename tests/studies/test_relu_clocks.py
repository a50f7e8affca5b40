"""The study of the ReLU network on runs whose clocks, ranks and gates are known, and on one real run."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest

from grokscope.probes.record import Measurement, Quantity, Record
from grokscope.studies.matched_trend import within_seed_trend
from grokscope.studies.published import published
from grokscope.studies.relu_clocks import Setting, compare, found_of, relu_arms, relu_settings, sentence_of
from grokscope.studies.relu_readings import (
    BLOCKS,
    MAPS,
    SCALES,
    SPECTRA,
    Reading,
    Weighed,
    read_clocks,
    reading_of,
)
from grokscope.studies.relu_rows import Found, data_of, findings_of, printed, rows_of
from grokscope.studies.result import plain
from grokscope.studies.sweep import Bench, Log

STEPS = 15000
TREND = "rank correlation of the decay with the step of the halved test loss"


@dataclass(frozen=True)
class World:
    """Runs whose training loss is flat at ``flat`` and whose test loss halves at ``half`` / decay.

    The embedding's stable rank goes from ``ranks[0]`` to ``ranks[1]``, from ``begins`` times ``flat`` on; of all other
    maps it stays at 50. Half of the gates' patterns are left 100 steps after ``flat``, if ``frozen`` is not set.
    """

    flat: float = 1500.0
    half: float = 4800.0
    power: float = 1.0
    floor: float = 1e-6
    ranks: tuple[float, float] = (36.0, 11.0)
    begins: float = 1.1
    head: float = 2.0
    frozen: bool = False
    budget: int = STEPS

    def reading(self, decay: float, seed: int) -> Reading:
        """What would have been read off one run."""
        half = self.half / decay**self.power * (1 + 0.02 * (seed - 1))
        evaluated = np.arange(0, self.budget + 1, 20)
        rate = math.log(4.0 / self.floor) / self.flat
        train = np.maximum(4.0 * np.exp(-rate * evaluated), self.floor)
        test = 12.0 * np.minimum(1.0, 0.3 + evaluated / 700) / (1 + (evaluated / half) ** 8)
        right = (evaluated >= 1.3 * half).astype(float)
        log = Log(
            f"run.wd{decay:g}-s{seed}", seed,
            {"step": evaluated, "loss.train": train, "loss.test": test, "accuracy.test": right,
             "accuracy.train": (evaluated >= 200).astype(float), "accuracy.test_unmirrored": right},
        )  # fmt: skip
        clocks = read_clocks(log, printed().level)
        saves = np.unique(np.concatenate([np.arange(0, self.budget + 1, 100), [self.budget]]))
        ramp = np.clip((saves - self.begins * self.flat) / (1.3 * half - self.begins * self.flat), 0, 1)
        fall = self.ranks[0] + (self.ranks[1] - self.ranks[0]) * ramp
        flat = np.full(len(saves), 50.0)
        values = {f"spectra.{name}.stable_rank": fall if name == "embedding" else flat for name in SPECTRA}
        values |= {"regions.stable_rank_mean": flat, "regions.frozen_samples": np.zeros(len(saves) - 1)}
        values |= {"regions.flipped": np.full(len(saves) - 1, 0.1)}
        values |= {"regions.reduction_residual": np.full(len(saves), 1e-15)}
        values |= {f"gradients.head_over_embedding{end}": np.full(len(saves), self.head) for end in SCALES}
        values |= {f"gradients.bound_slack.{block}": np.full(len(saves), 0.3) for block in BLOCKS}
        values |= {"gradients.head_above_bound": np.zeros(len(saves))}
        values |= {"gradients.update_ratio.relative": np.full(len(saves) - 1, 1.5)}
        reference = int(saves[min(np.searchsorted(saves, clocks.flat.by or self.budget), len(saves) - 1)])
        held = np.where(
            saves < reference, np.nan, 1.0 if self.frozen else np.exp2(-(saves - reference) / 100)
        )
        weighed = Weighed(
            dict.fromkeys(("hidden", "token_to_hidden", "logits"), flat), reference, held, held,
            {"train": (0.9, 1.0), "test": (0.4, 0.99)},
        )  # fmt: skip
        return reading_of(log, record_of(log.name, saves, values), weighed, decay, 1e-3, clocks)


def record_of(name: str, steps: np.ndarray, values: dict[str, np.ndarray]) -> Record:
    measured = {key: Measurement(value, ("step",), Quantity(key, "1", "")) for key, value in values.items()}
    return Record(name, steps, measured)


def settings(decays: Sequence[float] = (0.6, 0.7, 0.8, 0.9, 1.0), p: int = 113) -> list[Setting]:
    return [Setting(decay, 512, 0.2, p, STEPS, (0, 1, 2)) for decay in decays]


def readings_of(world: World, chosen: Sequence[Setting]) -> list[list[Reading]]:
    return [[world.reading(setting.decay, seed) for seed in setting.seeds] for setting in chosen]


def found_in(world: World, **options) -> Found:
    chosen = settings(**options)
    return found_of(chosen, readings_of(world, chosen))


def rows(found: Found) -> dict[str, dict]:
    return {row.quantity: row.as_json() for row in rows_of(found)}


def findings(found: Found) -> dict[str, dict]:
    return {finding.quantity: finding.as_json() for finding in findings_of(found)}


def sentence(found: Found) -> str:
    return sentence_of(found, rows_of(found))


def test_the_published_numbers_are_read_out_of_their_sentences() -> None:
    told = printed()
    assert (told.p, told.level, told.fit, told.drop) == (113, 1e-6, 1500, (4000, 8500))
    assert (told.rank, told.ranks, told.late, told.gap) == (36, (10, 12), 6000, 4)


def test_the_full_grid_is_the_published_one() -> None:
    setup = published("two_clocks")["setup"]
    arms = relu_arms("full")
    runs = [run for arm in arms for run in arm.runs()]
    assert len(runs) == len({name for name, _ in runs}) == 24
    main = [recipe for _, recipe in runs[:15]]
    assert sorted({recipe.train.weight_decay for recipe in main}) == setup["weight_decay"]
    assert {(r.train.steps, r.train.lr, r.train.betas, r.train.batch_size) for r in main} == {
        (setup["epochs"], 1e-3, (0.9, 0.98), 0)
    }
    _, model = main[0].build()
    assert model.shapes == {"embed.W_E": (113, 128), "hidden.1.W": (128, 512), "head.W_U": (512, 113)}
    first, second = (
        recipe for name, recipe in runs if name.endswith(("w512.f0.2.wd0.6-s1", "w512.f0.2.wd1-s1"))
    )
    assert (first.task, first.model, first.seed) == (second.task, second.model, second.seed)
    assert len([s for s in relu_settings("full") if s.varied]) == 3
    few = relu_settings("small")
    assert len([run for setting in few for run in setting.arm.runs()]) == 12
    for one in few:
        if one.varied:
            assert (one.width != few[0].width) + (one.fraction != few[0].fraction) == 1, one.varied


def test_clocks_of_a_known_log() -> None:
    clocks = World(half=4010).reading(1.0, 1).clocks
    # the loss is at twice its floor where the exponential has that far to go
    there = 1500 * (1 - math.log(2) / math.log(4e6))
    for found, exact in ((clocks.flat, there), (clocks.half, 4010), (clocks.grok, 5213)):
        assert found.after is not None
        assert found.by is not None
        assert found.after < exact <= found.by + 1e-6
    assert clocks.start.by == pytest.approx(4010 * (1 / 9) ** (1 / 8), abs=20)
    assert clocks.end.by == pytest.approx(4010 * 9 ** (1 / 8), abs=20)


def test_a_world_like_the_published_one_agrees() -> None:
    runs = found_in(World())
    found = rows(runs)
    agreeing = (
        "training loss at step 1500", "step from which the training loss is at most 1e-06",
        "step at which the training loss is flat", "step at which the test loss has halved, all decays",
        TREND, "test loss halved over training loss flat",
        "stable rank when the training loss is flat: token embedding E", "stable rank at the end: token embedding E",
        "fall of the stable rank begins, over training loss flat: token embedding E",
        "head over embedding, gradient by ‖g‖",
    )  # fmt: skip
    assert {name: found[name]["verdict"] for name in agreeing} == dict.fromkeys(agreeing, "agrees")
    assert found["stable rank at the end: head U"]["verdict"] == "differs"
    assert "the stable rank of token embedding E falls as published" in sentence(runs)
    exponent = findings(runs)["exponent of the step at which the test loss has halved in the decay"]
    assert exponent["ours"] == pytest.approx(-1.0, abs=0.02)
    constant = findings(runs)["steps × learning rate × decay when the test loss has halved"]
    assert constant["ours"] == pytest.approx(4.8, rel=0.01)


def test_another_world_differs() -> None:
    runs = found_in(World(flat=700, half=9000, power=-0.2, floor=1e-8, ranks=(60, 30), begins=3.0, head=0.5))
    found = rows(runs)
    differing = (
        "training loss at step 1500", "step at which the training loss is flat",
        "step at which the test loss has halved, decay 1", TREND,
        "test loss halved over training loss flat", "stable rank at the end: token embedding E",
        "fall of the stable rank begins, over training loss flat: token embedding E",
        "head over embedding, gradient by ‖g‖/‖θ‖",
    )  # fmt: skip
    assert {name: found[name]["verdict"] for name in differing} == dict.fromkeys(differing, "differs")
    assert "no map's stable rank is the published one at both ends" in sentence(runs)


def test_runs_that_have_not_generalised_are_bounds() -> None:
    runs = found_in(World(half=30000, budget=6000, ranks=(36, 36)))
    found = rows(runs)
    row = found["step at which the test loss has halved, all decays"]
    assert row["ours"] is None
    assert row["interval"][1] is None
    assert row["interval"][0] >= 5900
    assert row["verdict"] == "cannot tell"
    assert "15 not there within the budget" in row["note"]
    assert found[TREND]["verdict"] == "cannot tell"
    end = found["stable rank at the end: token embedding E"]
    assert end["interval"] == [0.0, 36.0]
    assert end["verdict"] == "cannot tell"
    json.dumps(plain(data_of(runs)), allow_nan=False)


def test_some_censored_runs_leave_the_median() -> None:
    """At the smallest decay the test loss halves after the end of the run: later than at all others."""
    found = rows(found_in(World(half=4800, budget=7900)))
    assert found["step at which the test loss has halved, decay 0.6"]["ours"] is None
    middle = found["step at which the test loss has halved, all decays"]
    assert middle["ours"] == pytest.approx(6000, rel=0.03)
    assert middle["verdict"] == "agrees"
    assert found[TREND]["ours"] == pytest.approx(-1.0)


def test_a_decay_that_keeps_the_loss_up_censors_the_published_level() -> None:
    found = rows(found_in(World(floor=3e-6)))
    level = found["step from which the training loss is at most 1e-06"]
    assert level["ours"] is None
    assert level["verdict"] == "differs"
    assert found["step at which the training loss is flat"]["verdict"] == "agrees"


def test_another_modulus_is_not_compared() -> None:
    runs = found_in(World(), p=59)
    found = rows(runs)
    assert found["stable rank at the end: token embedding E"]["verdict"] == "cannot tell"
    assert found["step at which the training loss is flat"]["verdict"] == "cannot tell"
    assert found["test loss halved over training loss flat"]["verdict"] == "cannot tell"
    assert found[TREND]["verdict"] == "agrees"
    assert "cannot be read at this modulus" in sentence(runs)


@pytest.mark.parametrize(("frozen", "share"), [(True, 1.0), (False, 0.0)])
def test_how_long_patterns_hold(frozen: bool, share: float) -> None:
    runs = found_in(World(frozen=frozen))
    found = findings(runs)
    held = found[
        "share of training pairs that keep their activation pattern from the flat training loss to generalisation"
    ]
    assert held["ours"] == pytest.approx(share, abs=1e-3)
    life = found["steps until half of the pairs have left their pattern"]
    if frozen:
        assert life["ours"] is None
        assert life["interval"][1] is None
    else:
        assert life["ours"] == 100


def test_two_seeds_at_two_decays_cannot_show_a_trend() -> None:
    chosen = [Setting(decay, 128, 0.3, 59, STEPS, (0, 1)) for decay in (0.6, 1.0)]
    found = rows(found_of(chosen, readings_of(World(), chosen)))
    assert found[TREND]["verdict"] == "cannot tell"


def test_the_trend_against_every_permutation() -> None:
    draw = np.random.default_rng(3)
    decays = (0.6, 0.7, 0.8, 0.9)
    times = [list(draw.normal(size=4) - 2 * np.asarray(decays)) for _ in range(2)]
    found = within_seed_trend(decays, times)
    assert found is not None

    def correlation(y: Sequence[float]) -> float:
        ranks = np.argsort(np.argsort(y))
        return float(np.corrcoef(np.arange(4), ranks)[0, 1])

    assert found.each == pytest.approx([correlation(row) for row in times])
    every = [correlation(a) + correlation(b) for a, b in product(permutations(range(4)), repeat=2)]
    seen = sum(found.each)
    assert found.p_value == pytest.approx(np.mean([abs(total) >= abs(seen) - 1e-9 for total in every]))


def test_seeds_that_never_get_there_have_no_trend() -> None:
    assert within_seed_trend((0.6, 1.0), [[math.inf, math.inf]]) is None
    tied = within_seed_trend((0.6, 0.8, 1.0), [[math.inf, math.inf, 4.0]])
    assert tied is not None
    assert tied.mean == pytest.approx(-math.sqrt(3) / 2)


def test_figures_and_words_are_the_same_twice() -> None:
    chosen = [*settings((0.6, 1.0)), Setting(1.0, 256, 0.2, 113, STEPS, (0, 1, 2), "width 256")]
    one, two = (compare(chosen, readings_of(World(), chosen), "full") for _ in range(2))
    assert "ReLU: width 256: test loss halved over training loss flat" in {f.quantity for f in one.findings}
    assert (one.left_out, bool(one.chosen)) == ("", True)
    assert [figure.svg for figure in one.figures] == [figure.svg for figure in two.figures]
    assert len(one.figures) == 3
    assert one.sentence == two.sentence
    assert plain(one.data) == plain(two.data)


@pytest.mark.slow
def test_a_real_run_is_read(tmp_path: Path) -> None:
    """p = 23 with 48 neurons: what is read off the weights against a slow version of it."""
    from grokscope.measures.regions import gates
    from grokscope.runs import open_run
    from grokscope.studies.relu_readings import read_arms
    from grokscope.training.fleet import train_fleet

    chosen = [Setting(1.0, 48, 0.5, 23, 2400, (0,))]

    def train(runs) -> None:
        train_fleet(
            [recipe for _, recipe in runs],
            [tmp_path / "checkpoints" / name for name, _ in runs],
            device="cpu",
        )

    bench = Bench(tmp_path, "small", train)
    arms = [setting.arm for setting in chosen]
    bench.train_arms(arms)
    readings = read_arms(bench, arms, 1e-6)
    ((reading,),) = readings
    assert set(reading.ranks) == set(MAPS)
    assert all(np.isfinite(values).all() and (values >= 1).all() for values in reading.ranks.values())
    assert float(np.nanmax(reading.residual)) < 1e-12
    run = open_run(tmp_path / "checkpoints" / reading.name)
    start = int(np.flatnonzero(run.steps == reading.weighed.reference)[0])
    inputs = run.task.inputs[run.task.train_mask]
    patterns = []
    for index in range(start, len(run.steps)):
        params = run.params(index)
        form = run.model.gated(params)
        patterns.append(gates(form, run.model.combined(params, inputs))[0].numpy())  # pyright: ignore
    slow = [
        float(
            np.mean(
                [all((q[i] == patterns[0][i]).all() for q in patterns[: n + 1]) for i in range(len(inputs))]
            )
        )
        for n in range(len(patterns))
    ]
    assert reading.weighed.held[start:] == pytest.approx(slow)
    last = run.params(len(run.steps) - 1)
    layer, logits = last["hidden.1.W"].numpy(), run.logits(last)[run.task.train_mask].numpy()
    maps = {
        "hidden": layer,
        "token_to_hidden": last["embed.W_E"].numpy() @ layer,
        "logits": logits - logits.mean(1, keepdims=True),
    }
    for name, matrix in maps.items():
        sigma = np.linalg.svd(matrix, compute_uv=False)
        assert reading.ranks[name][-1] == pytest.approx((sigma**2).sum() / sigma[0] ** 2)
    for subset in ("train", "test"):
        assert reading.weighed.accuracy[subset][1] == run.scalars[f"accuracy.{subset}"][-1]
    part = compare(chosen, readings, "small")
    json.dumps(plain(part.data), allow_nan=False)
    assert "p = 59" in part.left_out
