"""Arrays over saves as text inside a page: quantised, differenced, deflated, in base64.

The page inflates them with the browser's own DecompressionStream. Range and rounding error stand beside the data.

Shape legend: T frames of one array, n bytes of a frame.
"""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np

from grokscope.errors import GrokscopeError
from grokscope.probes.views import Frames

_LEVELS = {"byte": 255, "log16": 65535}


def encoded(frames: Frames) -> dict[str, Any]:
    """``frames`` as JSON: data, type, shape, coding, the rows at which it stands, range and largest rounding error.

    ``coding`` says what was done to the bytes before they were deflated. ``delta``: each frame less the one before,
    modulo 256. ``xor``: each frame of packed bits against the one before. ``flips``: only where a bit differs from the
    frame before, as distances in base 128, the whole history of one bit before that of the next. ``shuffle``: all
    first bytes of the numbers, then all second ones. ``raw``: nothing. Where several would do, the shortest is taken.

    ``top`` is the highest level of a byte that holds a number. Where something is not finite it is 254, and 255 says
    that there is none.
    """
    values = np.asarray(frames.values)
    shape = list(values.shape)
    rows = None if frames.rows is None else [int(row) for row in frames.rows]
    common = {"shape": shape, "frames": rows, "unit": frames.unit, "scale": "linear", "low": 0, "high": 1}
    if frames.precision == "bits":
        return {**common, "type": "bits", "error": 0, **_bits(values)}
    if frames.precision == "float32":
        single = np.ascontiguousarray(values, dtype="<f4")
        halves = single.reshape(-1, 1).view(np.uint8).T
        return {**common, "type": "f32", "coding": "shuffle", "error": 0, "data": deflated(halves)}
    if frames.precision == "log16":
        return {**common, **_logarithmic(frames, values)}
    return {**common, **_bytes(frames, values)}


def decoded(held: dict[str, Any]) -> np.ndarray:
    """The array that the page reads back, (T, …) float64: what a browser must find too."""
    shape = tuple(held["shape"])
    raw = np.frombuffer(zlib.decompress(base64.b64decode(held["data"])), np.uint8)
    if held["type"] == "bits":
        size = int(np.prod(shape[1:]))
        if held["coding"] == "flips":
            changed = _from_distances(raw, shape[0] * size).reshape(size, shape[0]).T
        else:
            changed = np.unpackbits(raw.reshape(shape[0], -1), axis=1, count=size)
        return np.bitwise_xor.accumulate(changed, axis=0).reshape(shape).astype(float)
    if held["type"] == "f32":
        return np.ascontiguousarray(raw.reshape(4, -1).T).view("<f4").reshape(shape).astype(float)
    low, high = (_over_frames(held[end], len(shape)) for end in ("low", "high"))
    if held["type"] == "u16":
        stored = raw.view("<u2").reshape(shape)
        return np.where(stored == 0, 0.0, 10.0 ** (low + (high - low) * stored / 65535))
    levels = raw.reshape(shape)
    if held["coding"] == "delta":
        levels = np.add.accumulate(levels, axis=0, dtype=np.uint8)
    return np.where(levels > held["top"], np.nan, low + (high - low) * levels / held["top"])


def deflated(data: np.ndarray) -> str:
    """Bytes of an array as base64 of a zlib stream."""
    return base64.b64encode(zlib.compress(np.ascontiguousarray(data).tobytes(), 9)).decode("ascii")


def _bits(values: np.ndarray) -> dict[str, Any]:
    changed = values.reshape(len(values), -1) != 0
    changed[1:] ^= changed[:-1].copy()
    # few flips are told one by one, many as they stand; the mirror image of a flip foretells neither well
    return _shortest({"xor": np.packbits(changed, axis=1), "flips": _distances(changed.T.reshape(-1))})


def _distances(marks: np.ndarray) -> np.ndarray:
    """Distances from each mark to the next in base 128, low digits first, 128 added to all but the last digit."""
    left = np.diff(np.flatnonzero(marks), prepend=-1)
    digits = np.zeros((len(left), 5), np.uint8)  # 2^35 places at most
    used = np.zeros(digits.shape, bool)
    for place in range(digits.shape[1]):
        used[:, place] = (left > 0) if place else True
        digits[:, place] = (left & 127) | np.where(left > 127, 128, 0)
        left = left >> 7
    return digits[used]


def _from_distances(digits: np.ndarray, length: int) -> np.ndarray:
    """(length,) uint8, 1 at the marks: the inverse of :func:`_distances`."""
    last = np.flatnonzero(digits < 128)
    marks = np.zeros(length, np.uint8)
    if last.size:
        number = np.searchsorted(last, np.arange(len(digits)))
        place = np.arange(len(digits)) - np.concatenate([[0], last[:-1] + 1])[number]
        distances = np.zeros(len(last), np.int64)
        np.add.at(distances, number, (digits.astype(np.int64) & 127) << (7 * place))
        marks[np.cumsum(distances) - 1] = 1
    return marks


def _shortest(codings: dict[str, np.ndarray]) -> dict[str, Any]:
    texts = {name: deflated(data) for name, data in codings.items()}
    coding = min(texts, key=lambda name: len(texts[name]))
    return {"coding": coding, "data": texts[coding]}


def _bytes(frames: Frames, values: np.ndarray) -> dict[str, Any]:
    there = np.isfinite(values)
    finite = values[there]
    top = _LEVELS["byte"] - (0 if there.all() else 1)
    low, high = (
        np.asarray(given if given is not None else chosen, dtype=float)
        for given, chosen in (
            (frames.low, finite.min() if finite.size else 0.0),
            (frames.high, finite.max() if finite.size else 1.0),
        )
    )
    for end in (low, high):
        if end.ndim and end.shape != values.shape[:1]:
            raise GrokscopeError(
                f"encoding an array of {values.shape[0]} frames: a range of shape {end.shape} was given, expected one "
                "number or one for each frame"
            )
    high = np.where(high > low, high, low + 1.0)
    # whole numbers up to the top are held as they are
    whole = not low.ndim and not high.ndim and (float(low), float(high)) == (0.0, 255.0)
    whole = whole and bool((finite == np.rint(finite)).all() and finite.max(initial=0) <= top)
    if whole:
        high = np.asarray(float(top))
    start, width = (_over_frames(end, values.ndim) for end in (low, high - low))
    scaled = np.clip(np.where(there, (np.where(there, values, 0.0) - start) / width, 0.0), 0.0, 1.0)
    levels = np.where(there, np.rint(scaled * top), _LEVELS["byte"]).astype(np.uint8)
    step = 0.0 if whole else float(np.max(high - low)) / top / 2
    # what moves slowly is mostly zeros as differences, what jumps about is not
    differences = levels.copy()
    differences[1:] -= levels[:-1]
    shortest = _shortest({"raw": levels, "delta": differences})
    return {
        "type": "u8",
        "top": top,
        "error": _short(step),
        "low": _plain(low),
        "high": _plain(high),
        **shortest,
    }


def _logarithmic(frames: Frames, values: np.ndarray) -> dict[str, Any]:
    positive = values[np.isfinite(values) & (values > 0)]
    low = float(np.log10(frames.low if frames.low is not None else positive.min() if positive.size else 1.0))
    high = float(
        np.log10(frames.high if frames.high is not None else positive.max() if positive.size else 10.0)
    )
    high = max(high, low + 1e-6)
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled = (np.log10(values) - low) / (high - low)
    # level 0 is kept for what has no logarithm or lies below the range
    levels = np.where(np.isfinite(scaled) & (scaled >= 0), np.rint(np.clip(scaled, 0, 1) * 65535), 0)
    levels = np.where(np.isfinite(scaled) & (scaled >= 0), np.maximum(levels, 1), 0).astype("<u2")
    error = 10.0 ** ((high - low) / _LEVELS["log16"]) - 1
    return {
        "type": "u16", "coding": "raw", "scale": "log10", "low": low, "high": high, "error": _short(error),
        "data": deflated(levels),
    }  # fmt: skip


def _over_frames(end: Any, ndim: int) -> np.ndarray:
    found = np.asarray(end, dtype=float)
    return found.reshape(-1, *([1] * (ndim - 1))) if found.ndim else found


def _plain(end: np.ndarray) -> float | list[float]:
    return [float(value) for value in end] if end.ndim else float(end)


def _short(value: float) -> float:
    return float(f"{value:.3g}")
