"""What a page carries for its script, built by hand in the format that the script reads, and put into a page.

The encoders are written out here on purpose: they are the format's second opinion.
"""

from __future__ import annotations

import base64
import copy
import json
import re
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

STEPS = [0, 1, 2, 5, 10, 20, 30, 31, 50, 100, 200, 300, 400, 500, 600, 700, 800, 890, 895, 1000, 1100, 1300]
SAVES = len(STEPS)
PRIME = 7
EVENTS = [
    {"name": "fit", "label": "fit", "after": 30, "by": 31},
    {"name": "grok", "label": "grok", "after": 890, "by": 895},
]


def _text(data: np.ndarray) -> str:
    return base64.b64encode(zlib.compress(np.ascontiguousarray(data).tobytes())).decode("ascii")


def _held(data: str, kind: str, coding: str, shape: Sequence[int], **more: Any) -> dict[str, Any]:
    common = {"frames": None, "low": 0, "high": 1, "scale": "linear", "error": 0, "unit": ""}
    return {"data": data, "type": kind, "coding": coding, "shape": list(shape), **common, **more}


def bits(values: np.ndarray, **more: Any) -> dict[str, Any]:
    """(T, …) of 0 and 1."""
    packed = np.packbits(values.reshape(len(values), -1), axis=1)
    changes = packed.copy()
    changes[1:] = packed[1:] ^ packed[:-1]
    return _held(_text(changes), "bits", "xor", values.shape, **more)


def levels(values: np.ndarray, *, coding: str = "delta", **more: Any) -> dict[str, Any]:
    """(T, …) bytes, as they are."""
    stored = values.astype(np.uint8)
    if coding == "delta":
        stored = stored.copy()
        stored[1:] = values[1:].astype(np.uint8) - values[:-1].astype(np.uint8)
    return _held(_text(stored), "u8", coding, values.shape, **{"high": 255, **more})


def words(values: np.ndarray, **more: Any) -> dict[str, Any]:
    """(T, …) 16-bit levels between powers of ten."""
    return _held(_text(values.astype("<u2")), "u16", "raw", values.shape, scale="log10", **more)


def floats(values: np.ndarray, **more: Any) -> dict[str, Any]:
    """(T, …) in single precision."""
    split = np.frombuffer(values.astype("<f4").tobytes(), np.uint8).reshape(-1, 4).T
    return _held(_text(split), "f32", "shuffle", values.shape, **more)


def curves() -> np.ndarray:
    """(S, T): training and test loss, accuracies, and a slope that belongs to the stretch before each save."""
    t = np.log10(np.array(STEPS) + 1.0)
    train, test = 1 / (1 + np.exp(-6 * (t - 1.4))), 1 / (1 + np.exp(-12 * (t - 2.9)))
    slope = np.concatenate([[np.nan], np.diff(test)])
    return np.array([4 * (1 - train) + 1e-4, 4 * (1 - test) + 1e-3, train, test, slope])


def answers() -> tuple[np.ndarray, np.ndarray]:
    """(T, p²) right or wrong, and (1, p²) whether in training: below the diagonal, and (0, 1)."""
    a, b = np.divmod(np.arange(PRIME**2), PRIME)
    train = (a > b) | ((a == 0) & (b == 1))
    right = np.zeros((SAVES, PRIME**2), np.uint8)
    right[8:] = train
    right[18:] = 1
    right[18:, 3 * PRIME + 5] = 0
    return right, train[None].astype(np.uint8)


def charts() -> dict[str, Any]:
    """Two axes redrawn from series, one with a band and a level and a line of its own, and a heat map."""

    def line(label: str, colour: str, series: int | None, **more: Any) -> dict[str, Any]:
        return {"label": label, "colour": colour, "dash": None, "width": 1.7, "series": series, **more}

    def axes(ylabel: str, lines: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        return {
            "title": "", "ylabel": ylabel, "yscale": "linear", "ylim": [-0.03, 1.03], "rect": [60, 20, 300, 220],
            "time": True, "xscale": "symlog", "linthresh": 1, "linscale": 0.4, "xlim": [0, 1300], "lines": lines,
            "bands": [], "levels": [], "live": True, **more,
        }  # fmt: skip

    loss = axes(
        "loss (nat)",
        [line("train", "--c1", 0), line("test", "--c2", 1, dash=[4, 3])],
        yscale="log",
        ylim=[1e-5, 10],
    )
    accuracy = axes("accuracy", [line("train", "--c1", 2), line("test", "--c2", 3)], rect=[390, 20, 630, 220])
    own = line("thinned", "--c3", None, x=[0, 100, 1300], y=[0.1, 0.5, 0.9])
    gini = axes(
        "Gini coefficient",
        [own, line("slope", "--c4", 4)],
        bands=[{"from": 0.04, "to": 0.06, "label": "random weights"}],
        levels=[{"at": 0.5, "label": "half"}],
    )
    heat = axes("frequency", [], live=False)
    return {
        "f1-1": {"box": [648, 266.4], "axes": [loss, accuracy]},
        "f2-1": {"box": [576, 259.2], "axes": [gini]},
        "f2-2": {"box": [576, 259.2], "axes": [heat]},
    }


def views() -> list[dict[str, Any]]:
    """One view of every kind, and one that no script knows."""
    draw = np.random.default_rng(0)
    frames = [0, 8, 18, 21]

    def view(kind: str, probe: str, **content: Any) -> dict[str, Any]:
        caption = f"Caption of {kind}."
        return {
            "id": kind,
            "title": f"View {kind}",
            "caption": caption,
            "kind": kind,
            "probe": probe,
            **content,
        }

    right, train = answers()
    spectrum = levels(draw.integers(0, 200, (SAVES, 6)), low=0, high=0.5, error=0.001)
    turned = levels(draw.integers(0, 256, (SAVES, PRIME, 2)), low=-1, high=1, error=0.004)
    extent = floats(np.linspace(0.5, 2, SAVES)[None])
    said = [f"save {row}" for row in range(SAVES)]
    singular = words(draw.integers(1, 65536, (4, 5)), low=-3, high=1, frames=frames, error=1e-4)
    grid = levels(
        draw.integers(0, 256, (4, PRIME, PRIME)), low=[-1, -2, -3, -4], high=[1, 2, 3, 4], frames=frames
    )
    angles = [
        levels(draw.integers(0, 256, (4, 20)), low=-np.pi, high=np.pi, frames=frames, error=0.012)
        for _ in range(2)
    ]
    layers = [{"label": name, "values": spectrum} for name in ("embedding", "unembedding")]
    loss, fourier = "probe-1-loss", "probe-2-fourier"
    return [
        view("answers", loss, p=PRIME, right=bits(right), train=bits(train), mirrored=True),
        view("bars", fourier, layers=layers, labels=list(range(1, 7)), xlabel="frequency", ylabel="share", chance=0.17),
        view(
            "plane",
            fourier,
            layers=[{"label": "embedding", "points": turned, "extent": extent, "note": said}],
            labels=list(range(PRIME)),
        ),
        view(
            "values",
            fourier,
            layers=[{"label": "head", "values": singular, "ranks": [1, 3, 5, 8, 12]}],
            ylabel="singular value",
        ),
        view("matrix", loss, layers=[{"label": "logits", "values": grid}], rows="a", cols="b", diverging=True),
        view(
            "neurons",
            fourier,
            frequency=levels(draw.integers(0, 4, (4, 20)), frames=frames),
            share=levels(draw.integers(0, 256, (4, 20)), high=1, frames=frames, error=0.002),
            n_frequencies=3,
        ),
        view("phases", fourier, x=angles[0], y=angles[1], weight=None, xlabel="φ_a + φ_b", ylabel="ψ"),
        view(
            "shares",
            loss,
            labels=["head", "hidden", "embedding"],
            values=levels(np.tile([51, 102, 102], (SAVES, 1)), high=1, error=0.002),
        ),
        view("tea leaves", loss),
    ]  # fmt: skip


def payload(**changes: Any) -> dict[str, Any]:
    """All of it."""
    series = {
        "names": ["loss.train", "loss.test", "accuracy.train", "accuracy.test", "accuracy.slope"],
        "units": ["nat", "nat", "1", "1", "1/step"],
        "intervals": [0, 0, 0, 0, 1],
        "values": floats(curves()),
    }
    whole = {
        "steps": STEPS, "last": STEPS[-1], "events": copy.deepcopy(EVENTS),
        "series": series, "charts": charts(), "views": views(),
    }  # fmt: skip
    return {**whole, **changes}


def with_live(page: str, live: dict[str, Any]) -> str:
    """``page`` carrying ``live`` in place of whatever it carried."""
    held = re.compile(r'<script type="application/json" id="live">.*?</script>', re.DOTALL)
    text = json.dumps(live, allow_nan=False).replace("<", "\\u003c")
    element = f'<script type="application/json" id="live">{text}</script>'
    bare = held.sub("", page)
    place = bare.rindex("<script>")
    return bare[:place] + element + bare[place:]
