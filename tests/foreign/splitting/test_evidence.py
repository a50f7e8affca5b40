"""Many candidates judged at once, against a plain judgement of each."""

import math

import numpy as np
import pytest
import torch
from scipy.special import log_ndtr
from scipy.stats import rankdata

from grokscope.foreign.gathering.facts import Recorded
from grokscope.foreign.splitting.evidence import TELLING, Evidence
from grokscope.foreign.splitting.numbers import FLOOR, LARGEST_AWAY, Number
from grokscope.tasks import random_split

N = 361


def evidence_of(seed: int = 0, printed: float = 0.0) -> Evidence:
    """Three saves of a run that memorises its first split, with everything recorded."""
    generator = torch.Generator().manual_seed(seed)
    mask = random_split(N, 0.4, seed)
    losses = torch.rand(3, N, generator=generator, dtype=torch.float64) + torch.tensor([[3.0], [1.0], [0.2]])
    losses[1:, mask] *= torch.tensor([[1e-2], [1e-7]], dtype=torch.float64)
    right = torch.rand(3, N, generator=generator) < 0.1
    right[1:, mask] = True
    recorded = [
        Recorded(f"{kind}.{side}", step, values[row, chosen].double().mean().item(), "a file", printed)
        for row, step in enumerate((0, 10, 20))
        for kind, values in (("loss", losses), ("accuracy", right))
        for side, chosen in (("train", mask), ("test", ~mask))
    ]
    return Evidence(losses, right, [0, 10, 20], recorded)


def plain_distances(one: Number, size: int, mean: float, inflation: float) -> tuple[float, float, float]:
    drawn = size if one.side == "train" else one.n - size
    spread = max(inflation * one.spread * math.sqrt((one.n - drawn) / (drawn * (one.n - 1))), 1e-300)
    least = 3e-6 * one.value if one.is_loss else 1e-9
    off = abs(mean - one.value) / spread
    return abs(one.value - one.total / one.n) / spread, off, max(one.resolution, least) / spread


def plain_surprise(away: float, off: float) -> float:
    if off >= away:
        return 0.0
    scale = min(1.0, LARGEST_AWAY / max(away, 1e-300))
    away, off = away * scale, off * scale
    upper, lower = float(log_ndtr(off - away)), float(log_ndtr(-off - away))
    inner = math.log(max(-math.expm1(min(lower - upper, -1e-300)), 1e-12))
    return min(-(upper + inner) / math.log(10), 30.0)


@pytest.mark.parametrize("printed", [0.0, 5e-4])
@pytest.mark.parametrize("inflation", [1.0, 2.5])
def test_judgements_at_once_are_those_of_each(printed: float, inflation: float) -> None:
    evidence = evidence_of(printed=printed)
    masks = [random_split(N, fraction, seed).numpy() for seed in (0, 1, 2) for fraction in (0.4, 0.25)]
    at_once = evidence.judge_all(np.array(masks), [inflation] * len(masks))
    assert len({one.strength for one in at_once}) == len(masks)
    for mask, found in zip(masks, at_once, strict=True):
        size = int(mask.sum())
        deviation = inflation * math.sqrt(size * (N - size) / (N - 1))
        best = max(
            (-(ranks[mask] - ranks.mean()).sum() / ranks.std() / deviation, -place)
            for place, ranks in enumerate(rankdata(evidence.losses[save]) for save in evidence.ranked)
        )
        assert found.z == pytest.approx(best[0], rel=1e-9)
        assert found.save == evidence.ranked[-best[1]]
        by_save: dict[int, float] = {}
        misses, errors = [], []
        for one in evidence.numbers:
            values = evidence.values_of(one)
            mean = float(values[mask if one.side == "train" else ~mask].mean())
            away, off, digits = plain_distances(one, size, mean, inflation)
            by_save[one.save] = max(by_save.get(one.save, 0.0), plain_surprise(away, max(off, digits)))
            drawn, usual = (size if one.side == "train" else N - size), one.total / N
            telling = max(one.value, usual) > FLOOR if one.is_loss else abs(one.value - usual) * drawn > 3
            if away >= TELLING and telling:
                misses.append(off / away)
            if one.is_loss:
                errors.append(max(abs(mean - one.value) - one.resolution, 0.0) / one.value)
        first, second, *_ = sorted(by_save.values(), reverse=True)
        assert found.surprise == pytest.approx(first + min(second, 4.0), rel=1e-6, abs=1e-9)
        assert found.misfit == (pytest.approx(np.median(misses), abs=1e-9) if misses else None)
        assert found.error == pytest.approx(np.median(errors), rel=1e-6, abs=1e-9)
        assert found.n_numbers == 12
        alone = evidence.judge(mask, inflation)
        assert (alone.z, alone.surprise) == (pytest.approx(found.z), pytest.approx(found.surprise))


def test_without_recorded_numbers_only_the_losses_speak() -> None:
    losses = torch.rand(1, N, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    evidence = Evidence(losses, losses < 0.5, [5], [])
    found = evidence.judge(random_split(N, 0.3, 1).numpy())
    assert (found.surprise, found.misfit, found.error, found.n_numbers) == (0.0, None, None, 0)


def test_the_largest_separation_of_a_size() -> None:
    evidence = evidence_of()
    for size in (1, 17, N - 1):
        best = np.sort(evidence.scores, axis=1)[:, ::-1][:, :size].sum(axis=1).max()
        assert evidence.best_separation(size) == pytest.approx(best / math.sqrt(size * (N - size) / (N - 1)))
