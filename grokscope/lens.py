"""Checkpoints for TransformerLens 4: as a ``TransformerBridge`` with our logits, and as a file that boots one.

``transformer_lens`` is an extra and takes seconds to import, so only the functions that need it import it. The
file needs nothing of ours::

    saved = torch.load("checkpoint.pt", weights_only=True)
    bridge = TransformerBridge.boot_native(saved["config"])
    bridge.load_state_dict(saved["state_dict"])
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from grokscope import __version__
from grokscope.errors import GrokscopeError
from grokscope.lens_weights import Translation, translate
from grokscope.models import Model, Params
from grokscope.runs import Run
from grokscope.trajectory.atomic import replace_file

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

TOLERANCE = 1e-5
"""Greatest difference of a logit, of the largest one, in float32."""

FORMAT = "grokscope lens 1"
INSTALL = "pip install 'grokscope[lens]'"

_BLOCK_ELEMENTS = 2**23


@dataclass(frozen=True)
class LensExport:
    """A checkpoint as TransformerLens has it, with the evidence that it is the same function.

    Attributes:
        bridge: a ``TransformerBridge`` in float32 on the CPU.
        tokens: (p², length) int64: the prompts of all pairs of residues, a·p + b in order.
        difference: the greatest difference of a logit from ours, of the largest, over all pairs and classes.
        notes: what is written otherwise than in the network, a sentence each.
        translation: its settings, weights, prompt, read positions and classes.
        provenance: run, step and checksum of the trajectory, and our version.
    """

    bridge: TransformerBridge
    tokens: Tensor
    difference: float
    notes: tuple[str, ...]
    translation: Translation
    provenance: Mapping[str, Any]


def to_lens(run: Run, step: int | None = None) -> TransformerBridge:
    """The checkpoint at a saved step (``None``: the last) as a ``TransformerBridge`` with our logits.

    See :func:`check_lens` for its prompts, the measured difference and errors.
    """
    return check_lens(run, step).bridge


def export(run: Run, step: int | None, out: Path) -> LensExport:
    """Write the checkpoint at a saved step (``None``: the last) to ``out``; see :func:`check_lens` for errors."""
    found = check_lens(run, step)
    save_lens(found, out)
    return found


def check_lens(run: Run, step: int | None = None) -> LensExport:
    """The checkpoint at a saved step (``None``: the last), translated and compared with ours on all pairs.

    Raises:
        GrokscopeError: a step that is not saved, a function that is not known, a part that TransformerLens's
            native model cannot express, no TransformerLens 4, logits that are not finite or that differ by
            more than ``TOLERANCE``.
    """
    steps = run.steps
    at = int(steps[-1]) if step is None else step
    index = np.flatnonzero(steps == at)
    if not len(index):
        raise GrokscopeError(
            f"handing step {at} of {run.name} to TransformerLens: it is not saved, expected a saved step; "
            f"{_nearest(steps, at)}"
        )
    if run.model.no_function is not None:
        raise GrokscopeError(
            f"handing step {at} of {run.name} to TransformerLens: {run.model.no_function.reason}; expected a "
            "function that is known and proved"
        )
    # the float32 weights are what both sides compute with
    params = {name: value.float() for name, value in run.params(int(index[0])).items()}
    translation = translate(run.model, {name: value.double() for name, value in params.items()})
    bridge = boot(translation.config, translation.weights)
    pairs = torch.cartesian_prod(*[torch.arange(run.model.n_tokens or 0)] * 2)
    difference = compare(bridge, translation, run.model, params, pairs)
    if not difference <= TOLERANCE:
        raise GrokscopeError(
            f"handing step {at} of {run.name} to TransformerLens: its logits differ from ours by {difference:.2g} "
            f"of the largest, expected at most {TOLERANCE:g}"
        )
    provenance = {
        "run": run.name,
        "step": at,
        "checksum": run.trajectory.checksum(),
        "grokscope": __version__,
    }
    return LensExport(
        bridge, translation.tokens(pairs), difference, translation.notes, translation, provenance
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _nearest(steps: np.ndarray, at: int) -> str:
    below, above = steps[steps < at], steps[steps > at]
    near = [str(int(side)) for side in (*below[-1:], *above[:1])]
    return f"the nearest {'is' if len(near) == 1 else 'are'} {' and '.join(near)}"


def compare(
    bridge: TransformerBridge, translation: Translation, model: Model, params: Params, pairs: Tensor
) -> float:
    """Greatest |theirs − ours| of ``pairs`` (N, 2) over the greatest |ours|, theirs as the bridge computes.

    ``params`` are ours; our logits are computed in float64.

    Raises:
        GrokscopeError: logits of ours that are not finite.
    """
    exact = {name: value.double() for name, value in params.items()}
    config = translation.config
    a_pair = len(translation.prompt) * (
        config["d_vocab_out"] + 4 * config["d_model"] + (config["d_mlp"] or 0)
    )
    largest = apart = 0.0
    with torch.no_grad():
        for block in pairs.split(max(1, _BLOCK_ELEMENTS // a_pair)):
            ours = model.forward(exact, block)
            theirs = translation.logits(bridge(translation.tokens(block))).double()
            if not bool(ours.isfinite().all()):
                raise GrokscopeError(
                    "handing a checkpoint to TransformerLens: its logits are not finite, expected finite ones"
                )
            # a NaN of theirs must not get lost in a maximum
            if not bool(theirs.isfinite().all()):
                return float("inf")
            largest = max(largest, float(ours.abs().max()))
            apart = max(apart, float((theirs - ours).abs().max()))
    return apart / largest if largest else apart


def boot(
    config: Mapping[str, Any], weights: Mapping[str, Tensor], dtype: torch.dtype = torch.float32
) -> TransformerBridge:
    """A ``TransformerBridge`` of these settings with these weights, on the CPU.

    Raises:
        GrokscopeError: no TransformerLens 4.
    """
    # deprecations of packages that it imports are not the reader's
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            from transformer_lens.model_bridge import TransformerBridge

            boot_native = TransformerBridge.boot_native  # pyright: ignore[reportAttributeAccessIssue]
        except (ImportError, AttributeError) as error:
            raise GrokscopeError(
                f"handing a checkpoint to TransformerLens: it cannot be imported ({_first_line(error)}), expected "
                f"transformer-lens 4: {INSTALL}"
            ) from None
        # what it draws for weights that are replaced at once is not drawn from the process's own generator
        with torch.random.fork_rng(devices=[]):
            bridge = boot_native(dict(config), device="cpu", dtype=dtype)
        bridge.load_state_dict({name: value.to(dtype) for name, value in weights.items()}, strict=True)
    return bridge


def save_lens(found: LensExport, path: Path) -> None:
    """Write one file of plain values and tensors, whole or not at all.

    It holds ``config`` and ``state_dict`` for ``TransformerBridge.boot_native``; ``tokens``, for each position
    of the prompt the operand whose residue stands there and the token of residue 0 (or "" and the token of a
    constant); ``read``, the positions whose logits count (several: their mean); ``classes``, the first and
    one past the last logit of the classes; ``difference``, ``notes``; and ``grokscope``, where it is from.

    Raises:
        GrokscopeError: a place that cannot be written.
    """
    translation = found.translation
    content = {
        "format": FORMAT,
        "config": translation.config,
        "state_dict": {name: value.float() for name, value in translation.weights.items()},
        "tokens": [list(entry) for entry in translation.prompt],
        "read": list(translation.read),
        "classes": list(translation.classes),
        "difference": found.difference,
        "notes": list(found.notes),
        "grokscope": dict(found.provenance),
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    replace_file(Path(path), buffer.getvalue())


def load_lens(path: Path) -> TransformerBridge:
    """The bridge of a file that :func:`save_lens` wrote, on the CPU.

    Raises:
        GrokscopeError: a file that cannot be read or is no such file, or no TransformerLens 4.
    """
    from grokscope.foreign.reading.safe_read import read_weights

    content = read_weights(Path(path))
    config, weights = _checked(content, Path(path))
    try:
        return boot(config, weights)
    except (RuntimeError, TypeError, ValueError, NotImplementedError, KeyError) as error:
        raise _no_lens_file(Path(path), _first_line(error)) from None


def _no_lens_file(path: Path, why: str) -> GrokscopeError:
    return GrokscopeError(f"booting {path}: {why}, expected a file written by grokscope lens")


def _checked(content: Any, path: Path) -> tuple[dict[str, Any], Params]:
    """Settings and weights that agree, so that no model is built of other sizes than the tensors at hand."""
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise _no_lens_file(path, f"it has no format {FORMAT!r}")
    config, weights = content.get("config"), content.get("state_dict")
    if not isinstance(config, dict) or not isinstance(weights, dict):
        raise _no_lens_file(path, "it has no config and state_dict")
    if not all(isinstance(value, Tensor) for value in weights.values()):
        raise _no_lens_file(path, "its state_dict holds other things than tensors")

    def size(name: str, axis: int) -> int | None:
        value = weights.get(name)
        return int(value.shape[axis]) if value is not None and value.ndim > axis else None

    width, length = config.get("d_head"), size("pos_embed.weight", 0)
    queries = size("blocks.0.attn.q.weight", 0)
    expected = {
        "d_vocab": size("embed.weight", 0),
        "d_model": size("embed.weight", 1),
        "d_vocab_out": size("unembed.weight", 0),
        "n_layers": len({name.split(".")[1] for name in weights if name.startswith("blocks.")}),
        "n_ctx": length if length is not None else len(content.get("tokens") or ()),
        "d_mlp": size("blocks.0.mlp.in.weight", 0),
        "n_heads": queries // width if queries and isinstance(width, int) and width > 0 else None,
    }
    for name, found in expected.items():
        if config.get(name) != found:
            raise _no_lens_file(path, f"its config has {name} = {config.get(name)!r} and its tensors {found}")
    return config, weights
