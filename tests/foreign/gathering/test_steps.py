"""The step in a name, and which names are the steps of one run."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grokscope.foreign.gathering.steps import folder_step, grouped, place_of


def steps(stems: list[str]) -> list[list[int | None]]:
    return [[place.step for place in group.places] for group in grouped(stems)]


@pytest.mark.parametrize(
    ("stem", "step"),
    [
        ("ckpt_100", 100),
        ("checkpoint_e001000", 1000),
        ("epoch=12-step=3400", 3400),
        ("1000", 1000),
        ("model_step_500_seed_3", 500),
        ("weights-10k", 10_000),
        ("weights_1.5M", 1_500_000),
        ("p97_frac0.30_wd1_seed0_step200", 200),
        ("ckptStep100", 100),
        ("100epochs", 100),
        ("model_500_steps", 500),
        ("step_000100_loss_0.5", 100),
        ("epoch3step30", 30),
        ("epoch=12-val_loss=0.02", 12),
    ],
)
def test_a_step_is_read_wherever_it_stands(stem: str, step: int) -> None:
    assert place_of(stem).step == step


@pytest.mark.parametrize(
    "stem",
    [
        "p97_frac0.30_wd1_seed0",
        "model_18c9ev5v5p",
        "C113_T_seed1",
        "wd_10-1_mod_addition_loss_curve",
        "grokking_transformer",
        "ckpt-v2",
        "run_1",
        "model_lr1e-3",
        "model_2024_p113",
        "1234567890123456789012",
    ],
)
def test_what_is_no_step(stem: str) -> None:
    assert place_of(stem).step is None


def test_the_number_that_varies_is_the_step() -> None:
    assert steps(["grok_113_20000", "grok_113_40000"]) == [[20_000, 40_000]]
    # two vary: different runs, by the other
    assert steps(["grok_113_200", "grok_113_400", "grok_97_200", "grok_97_400"]) == [[200, 400], [200, 400]]
    # epoch and step of a save grow together
    assert steps(["ckpt_1_100", "ckpt_2_200", "ckpt_3_300"]) == [[100, 200, 300]]
    # settings are not steps, however they vary
    assert steps(["seed_0", "seed_1"]) == [[None], [None]]
    assert steps(["net_p97", "net_p113"]) == [[None], [None]]
    assert steps(["m_step_5_seed_3", "m_step_9_seed_3", "m_step_5_seed_4"]) == [[5, 9], [5]]
    assert steps(["model_20240101_100", "model_20240101_200"]) == [[100, 200]]


def test_words_in_place_of_numbers_join_the_run_of_their_name() -> None:
    (group,) = grouped(["0", "400", "final"])
    assert [(one.step, one.marker) for one in group.places] == [(0, ""), (400, ""), (None, "final")]
    (group,) = grouped(["p97_seed0", "p97_seed0_memorize"])
    assert (group.base, sorted(one.marker for one in group.places)) == ("p97_seed0", ["", "memorize"])
    (group,) = grouped(["ckpt_1", "ckpt_2", "model_best"])
    assert group.base == ""
    groups = grouped(["a_1", "a_2", "a_final", "b_final", "special"])
    assert [(group.base, len(group.places)) for group in groups] == [("a", 3), ("b", 1), ("special", 1)]
    assert [len(group.places) for group in grouped(["epoch=1-step=5", "epoch=2-step=9", "last"])] == [3]


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("checkpoint-500", 500),
        ("step_100", 100),
        ("100", 100),
        ("epoch_3", 3),
        ("run1-step-7", 7),
        ("ckpt_10k", 10_000),
        ("run_1", None),
        ("version_0", None),
        ("seed_3", None),
        ("C113_T_seed1", None),
        ("model_3", None),
        ("20240115", None),
        ("p_23_dmlp_512_scale_0.1_08180102", None),
    ],
)
def test_the_step_of_a_folder(name: str, step: int | None) -> None:
    place = folder_step(name)
    assert (place.step if place else None) == step


@given(
    st.sets(st.integers(0, 10**12), min_size=1, max_size=20),
    st.sampled_from(["ckpt_{}", "model-{}", "{}", "epoch_{}", "p113_wd1.0_seed0_step{}", "step={:015d}"]),
)
def test_any_numbering_is_one_run(numbers: set[int], pattern: str) -> None:
    (group,) = grouped([pattern.format(number) for number in sorted(numbers)])
    assert [place.step for place in group.places] == sorted(numbers)


@given(st.lists(st.text(max_size=30), max_size=8))
def test_every_name_has_its_place(stems: list[str]) -> None:
    names = [place.name for group in grouped(stems) for place in group.places]
    assert sorted(names) == sorted(stems)
