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
    modulo 256. ``xor``: each frame of packed bits against the one before. ``shuffle``: all first bytes of the
    numbers, then all second ones. ``raw``: nothing.
    """
    values = np.asarray(frames.values)
    shape = list(values.shape)
    rows = None if frames.rows is None else [int(row) for row in frames.rows]
    common = {"shape": shape, "frames": rows, "unit": frames.unit, "scale": "linear", "low": 0, "high": 1}
    if frames.precision == "bits":
        packed = np.packbits(values.reshape(len(values), -1) != 0, axis=1)
        packed[1:] ^= packed[:-1].copy()
        return {**common, "type": "bits", "coding": "xor", "error": 0, "data": deflated(packed)}
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
        packed = np.bitwise_xor.accumulate(raw.reshape(shape[0], -1), axis=0)
        return np.unpackbits(packed, axis=1, count=int(np.prod(shape[1:]))).reshape(shape).astype(float)
    if held["type"] == "f32":
        return np.ascontiguousarray(raw.reshape(4, -1).T).view("<f4").reshape(shape).astype(float)
    low, high = (_over_frames(held[end], len(shape)) for end in ("low", "high"))
    if held["type"] == "u16":
        stored = raw.view("<u2").reshape(shape)
        return np.where(stored == 0, 0.0, 10.0 ** (low + (high - low) * stored / 65535))
    levels = raw.reshape(shape)
    if held["coding"] == "delta":
        levels = np.add.accumulate(levels, axis=0, dtype=np.uint8)
    return low + (high - low) * levels / 255.0


def deflated(data: np.ndarray) -> str:
    """Bytes of an array as base64 of a zlib stream."""
    return base64.b64encode(zlib.compress(np.ascontiguousarray(data).tobytes(), 9)).decode("ascii")


def _bytes(frames: Frames, values: np.ndarray) -> dict[str, Any]:
    finite = values[np.isfinite(values)]
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
    start, width = (_over_frames(end, values.ndim) for end in (low, high - low))
    scaled = np.clip(np.nan_to_num((values - start) / width, nan=0.0), 0.0, 1.0)
    levels = np.rint(scaled * _LEVELS["byte"]).astype(np.uint8)
    step = float(np.max(high - low)) / _LEVELS["byte"] / 2
    ends = {"low": _plain(low), "high": _plain(high)}
    if not np.ndim(low) and np.array_equal(values, levels) and float(low) == 0 and float(high) == 255:
        step = 0.0  # whole numbers up to 255 are held as they are
    # what moves slowly is mostly zeros as differences, what jumps about is not
    differences = levels.copy()
    differences[1:] -= levels[:-1]
    texts = {"raw": deflated(levels), "delta": deflated(differences)}
    coding = min(texts, key=lambda name: len(texts[name]))
    return {"type": "u8", "coding": coding, "data": texts[coding], "error": _short(step), **ends}


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
