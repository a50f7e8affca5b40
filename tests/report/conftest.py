"""A run that groks, made up: curves, events and probes without any training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from grokscope.measures.crossings import Crossing, delay, first_hold
from grokscope.probes import Alert, Claim, Probe, Quantity, Record, Verdict
from grokscope.probes.drawing import TEST, TRAIN, band, curve, legend, time_axes
from grokscope.probes.registry import FigureSpec
from grokscope.report import Facts, render_page

if TYPE_CHECKING:
    from tests.report.chromium import Chromium
    from tests.report.live_tab import Open

MakeRecord = Callable[..., Record]

LOSS = (
    Quantity("loss.slope", "nat/step", "Change of the training loss between two saves."),
    Quantity("loss.<subset>", "nat", "Mean cross-entropy over the samples."),
    Quantity("accuracy.<subset>", "", "Share of samples answered right."),
)
FOURIER = (
    Quantity("fourier.<map>.fraction", "", "Share of power at each frequency.", "arXiv 2301.05217"),
    Quantity("fourier.<map>.gini", "", "Gini coefficient of the shares of power.", "arXiv 2606.13753"),
    Quantity("fourier.chance", "", "Gini coefficient of random weights."),
    Quantity("fourier.key_frequencies", "", "Frequencies that hold 95 % of the power."),
    Quantity("fourier.circularity", "", "How much of the leading components is circles."),
)
MANY = (Quantity("many.<series>", "", "One of many series."),)


def draw_loss(record: Record, figure: Figure) -> None:
    left, right = time_axes(figure, record, 2)
    for subset, colour in (("train", TRAIN), ("test", TEST)):
        curve(left, record, f"loss.{subset}", subset, colour)
        curve(right, record, f"accuracy.{subset}", subset, colour)
    left.set_yscale("log")
    left.set_ylabel("loss (nat)")
    right.set_ylabel("accuracy")
    right.set_ylim(-0.03, 1.03)
    right.legend(loc="lower right")


def draw_gini(record: Record, figure: Figure) -> None:
    (axes,) = time_axes(figure, record)
    band(axes, 0.04, 0.06, "random weights")
    for position, name in enumerate(record.names("fourier")):
        if name.endswith(".gini"):
            curve(axes, record, name, name.split(".")[1], (TRAIN, TEST)[position % 2])
    axes.set_ylabel("Gini coefficient")
    legend(axes)


def draw_spectrum(record: Record, figure: Figure) -> None:
    (axes,) = time_axes(figure, record)
    values = record.get("fourier.embedding.fraction")
    assert values is not None
    axes.pcolormesh(record.steps, np.arange(values.shape[1]), values.T, shading="nearest")
    axes.set_ylabel("frequency")


def build_probe(
    name: str, quantities: tuple[Quantity, ...], figures: tuple[FigureSpec, ...] = (), **texts: str
) -> Probe:
    def measure(run: Any, record: Record) -> None:
        """Nothing to measure: the record is made up."""

    measure.__module__ = texts.pop("module", "grokscope.probes.made_up")
    title = texts.get("title", name.capitalize())
    question, caveat = texts.get("question", f"What does {name} say?"), texts.get("caveat", "")
    return Probe(name, question, quantities, measure, title, caveat, (), list(figures))


@pytest.fixture
def make_probe() -> Callable[..., Probe]:
    return build_probe


def build_probes() -> list[Probe]:
    curves = FigureSpec(
        "Loss and accuracy", "Bands mark fit and grok.", draw_loss, (9.0, 3.7), ("loss.train",)
    )
    gini = FigureSpec("Fourier concentration", "Grey: random weights.", draw_gini)
    spectrum = FigureSpec("Power by frequency", "Brighter is more.", draw_spectrum)
    missing = FigureSpec("Never drawn", "Its data are absent.", draw_loss, needs=("fourier.circularity",))
    return [
        build_probe("loss", LOSS, (curves,), title="Loss and accuracy", caveat="Mirrored pairs are memory."),
        build_probe("fourier", FOURIER, (gini, spectrum, missing), question="Which frequencies does it use?"),
    ]


@pytest.fixture
def probes() -> list[Probe]:
    return build_probes()


def build_record(saves: int = 60, *, extra: int = 0, frequencies: int = 29) -> Record:
    steps = np.unique(np.concatenate([[0], np.geomspace(1, 10_000, 3 * saves).round()]).astype(int))
    steps = steps[np.unique(np.linspace(0, len(steps) - 1, saves).round().astype(int))]
    if len(steps) < saves:
        steps = np.arange(saves) * 10
    t = np.log10(steps + 1)
    random = np.random.default_rng(0)
    train = 1 / (1 + np.exp(-6 * (t - 1.6)))
    test = 1 / (1 + np.exp(-9 * (t - 3.2)))
    record = Record("quickstart-s0", steps)
    record.declare((*LOSS, *FOURIER, *MANY))
    record.add("accuracy.train", 0.02 + 0.98 * train)
    record.add("accuracy.test", 0.02 + 0.98 * test)
    record.add("accuracy.test_mirrored", 0.02 + 0.98 * (0.5 * train + 0.5 * test))
    record.add("accuracy.test_unmirrored", 0.02 + 0.98 * test**1.2)
    record.add("loss.train", 4.08 * (1 - train) + 3e-5)
    record.add("loss.test", 4.08 * (1 - test) * (1 + 0.6 * train) + 2e-4)
    record.add("loss.slope", np.diff(4.08 * (1 - train)) / np.diff(steps), ("interval",))
    power = random.random((len(steps), frequencies)) + 40 * test[:, None] * (np.arange(frequencies) % 9 == 4)
    record.coordinate("frequency", range(1, frequencies + 1))
    record.add("fourier.embedding.fraction", power / power.sum(1, keepdims=True), ("step", "frequency"))
    record.add("fourier.embedding.gini", 0.05 + 0.8 * test)
    gini = 0.06 + 0.7 * test**2
    gini[:2] = np.nan
    record.add("fourier.unembedding.gini", gini)
    record.add("fourier.chance", 0.0481, ())
    record.add("fourier.key_frequencies", np.array([5, 14, 23]), ("rank",))
    record.skip("fourier.circularity", "the two largest circles have equal variance")
    for position in range(extra):
        noise = random.standard_normal(len(steps)) * 10.0 ** random.integers(-9, 3)
        record.add(f"many.{position}", noise)
    record.events["fit"] = first_hold(steps, record.get("accuracy.train"), 0.99)  # pyright: ignore
    record.events["grok"] = first_hold(steps, record.get("accuracy.test"), 0.95)  # pyright: ignore
    record.events["grok_99"] = Crossing(int(steps[-1]), None, True)
    record.delay = delay(record.events["fit"], record.events["grok"])
    record.notes["fourier.axis"] = {"kind": "additive", "order": 59}
    record.alerts.append(
        Alert(
            "Key frequencies by neuron and by embedding disagree.",
            "grokscope probe quickstart-s0 --steps 0:10000:50",
        )
    )
    record.verdict = Verdict(
        "grokked",
        ("unstable",),
        "It grokked: training accuracy reached 0.99 between steps 150 and 160, test accuracy 0.95 between "
        "steps 3 100 and 3 300, 19 to 22 times later.",
        (
            Claim("Training accuracy holds at least 0.99.", 0.9999, 0.99, None, True),
            Claim("Grok came at least twice as late as fit.", 20.6, 2.0, record.delay, True),
            Claim("Test accuracy holds 0.99.", 0.988, 0.99, (0.98, None), False),
            Claim("The spectrum moved before grok.", None, None, None, None),
        ),
    )
    record.probes = ["loss", "fourier"]
    return record


@pytest.fixture
def make_record() -> MakeRecord:
    return build_record


@pytest.fixture
def record() -> Record:
    return build_record()


@pytest.fixture
def manifest() -> dict[str, Any]:
    return build_manifest()


@pytest.fixture(scope="session")
def page_text() -> str:
    """The page of the made-up run, which no test changes."""
    facts = Facts(
        task="a + b mod 59",
        checksum="abc",
        data="quickstart-s0.json",
        provenance=(("content checksum", "sha256 abc"),),
    )
    return render_page(build_record(), build_probes(), build_manifest(), facts, strict=True)


def build_manifest() -> dict[str, Any]:
    return {
        "schema": 1,
        "kind": "trained",
        "name": "quickstart-s0",
        "config": {
            "name": "quickstart",
            "seed": 0,
            "task": {"name": "modular", "op": "add", "p": 59, "train_fraction": 0.4},
            "model": {"family": "mlp", "hidden": 256, "embedding": 128, "activation": "relu", "tied": None},
            "train": {"steps": 10000, "lr": 1e-3, "weight_decay": 1.0, "betas": [0.9, 0.98]},
        },
        "provenance": {
            "grokscope": "0.1.0",
            "torch": "2.13.0+cpu",
            "device": "cpu",
            "threads": 1,
            "git_commit": None,
            "command": ["grokscope", "train", "quickstart", "--set", "task.p=59", "--name", "a run"],
            "files": {"run.json": "sha256 3f…", "trajectory.h5": "sha256 9a…"},
        },
    }


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    """A headless Chromium; a module that asks for it is skipped where there is none."""
    from tests.report.chromium import running

    with running() as started:
        yield started


@pytest.fixture
def open_page(browser: Chromium, page_text: str, tmp_path: Path) -> Open:
    """Opens the made-up run's page with live data of a test's own."""
    from tests.report.live_tab import opener

    return opener(browser, page_text, tmp_path)
