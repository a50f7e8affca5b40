"""Whole clusters drawn with replacement, and the intervals that follow."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import stdtrit

from grokscope.measures.resampling import cluster_weights, expanded_percentile, student_interval


def test_cluster_weights_draw_whole_clusters():
    cluster = np.array([0, 1, 2, 0, 1, 2, 2])
    weights = cluster_weights(cluster, 200, 0)
    assert np.array_equal(weights[:, 0], weights[:, 3])
    assert np.array_equal(weights[:, 2], weights[:, 6])
    assert np.all(weights[:, :3].sum(axis=1) == 3)
    assert weights[:, 0].mean() == pytest.approx(1, abs=0.2)
    assert np.array_equal(weights, cluster_weights(cluster, 200, 0))


def test_both_intervals_are_student_s_for_a_mean():
    rng = np.random.default_rng(0)
    x = rng.standard_normal(8)
    means = (cluster_weights(np.arange(8), 100_000, 0) @ x) / 8
    student, percentile = student_interval(x.mean(), means, 8), expanded_percentile(means, 8)
    assert student is not None
    assert percentile is not None
    half = stdtrit(7, 0.975) * x.std(ddof=1) / np.sqrt(8)
    assert student == pytest.approx((x.mean() - half, x.mean() + half), rel=0.02)
    assert percentile[1] - percentile[0] == pytest.approx(2 * half, rel=0.15)
    # The plain one is what is too narrow.
    assert np.ptp(np.percentile(means, [2.5, 97.5])) < 0.85 * 2 * half


def test_expanded_percentile_of_few_clusters_and_of_infinite_ends():
    assert expanded_percentile([1.0, 2.0], 2) is None
    assert student_interval(1.5, [1.0, 2.0], 2) is None
    assert student_interval(1.5, [], 9) is None
    assert expanded_percentile([], 9) is None
    assert expanded_percentile(np.arange(100.0), 3) == (0, 99)
    found = expanded_percentile([1.0, 2.0, -np.inf], 5, high=[1.0, np.inf, 3.0])
    assert found == (-np.inf, np.inf)
