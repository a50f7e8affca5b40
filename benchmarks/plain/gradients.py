"""Gradient norms as notebooks compute them: ``loss.backward()``, and the norms of single samples beside their bounds.

The samples' norms are written in two ways: by ``torch.func.vmap`` over ``grad``, the recipe of torch's own tutorial
on per-sample gradients, and by outer products worked out on paper, which takes two dense layers and no attention.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy

from benchmarks.plain.networks import PlainMLP, PlainNetwork, PlainTransformer, Setting, network

BLOCKS = {
    "mlp": {"embedding": ["W_E"], "hidden.1": ["W_1", "b_1"], "head": ["W_U"]},
    "transformer": {
        "embedding": ["W_E"],
        "position": ["W_pos"],
        "attention": ["W_Q", "W_K", "W_V", "W_O"],
        "mlp": ["W_in", "W_out"],
        "head": ["W_U"],
    },
}
CHUNK = 128


def measure(
    weights: Mapping[str, np.ndarray], setting: Setting, *, weight_decay: float, by_hand: bool
) -> dict[str, float]:
    """Every quantity of the gradients probe that one checkpoint decides."""
    net, targets = network(setting, weights), setting.train.sum(1) % setting.p
    blocks = {block: list(names) for block, names in BLOCKS[setting.family].items()}
    if "hidden.1.b" not in weights and setting.family == "mlp":
        blocks["hidden.1"] = ["W_1"]
    cross_entropy(net(setting.train), targets).backward()
    tensors = dict(net.named_parameters())
    found: dict[str, float] = {}
    for block, names in blocks.items():
        count = sum(tensors[name].numel() for name in names)
        scale = _norm([tensors[name].detach() for name in names])
        for prefix, decay in (("gradients", 0.0), ("gradients.with_decay", weight_decay)):
            size = _norm([_gradient(tensors[name]) + decay * tensors[name].detach() for name in names])
            found[f"{prefix}.{block}.norm"] = size
            found[f"{prefix}.{block}.per_parameter"] = size / count**0.5
            found[f"{prefix}.{block}.relative"] = size / scale
    for suffix, kind in (("", "norm"), ("_per_parameter", "per_parameter"), ("_relative", "relative")):
        ratio = found[f"gradients.head.{kind}"] / found[f"gradients.embedding.{kind}"]
        found[f"gradients.head_over_embedding{suffix}"] = ratio
    biased = "b_1" in blocks.get("hidden.1", [])
    if by_hand:
        samples = _by_hand(net, setting.train, targets, biased)
    else:
        counted = blocks if setting.family == "mlp" else {b: blocks[b] for b in ("mlp", "head")}
        samples = _by_vmap(net, setting.train, targets, counted)
    for block, norms in samples.items():
        found[f"gradients.cancellation.{block}"] = found[f"gradients.{block}.norm"] / norms.mean().item()
    return {**found, **_bounds(net, setting.train, targets, samples, biased)}


def between(before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> dict[str, float]:
    """What the optimiser moved between two checkpoints."""
    sizes = []
    for block in (("head.W_U", "unembed.W_U"), ("embed.W_E",)):
        (name,) = (name for name in block if name in before)
        old, new = before[name].astype(np.float64), after[name].astype(np.float64)
        moved = np.linalg.norm(new - old)
        sizes.append((moved, moved / np.linalg.norm(old)))
    (head, embedding) = sizes
    return {
        "gradients.update_ratio": head[0] / embedding[0],
        "gradients.update_ratio.relative": head[1] / embedding[1],
    }


def _gradient(tensor: Tensor) -> Tensor:
    assert tensor.grad is not None
    return tensor.grad


def _norm(tensors: list[Tensor]) -> float:
    return torch.cat([tensor.flatten() for tensor in tensors]).norm().item()


def _by_vmap(
    net: PlainNetwork, pairs: Tensor, targets: Tensor, blocks: dict[str, list[str]]
) -> dict[str, Tensor]:
    """(N,) norm of every sample's gradient, by block."""
    tensors = {name: tensor.detach() for name, tensor in net.named_parameters()}
    moved = {name: tensors[name] for names in blocks.values() for name in names}

    def loss(chosen: dict[str, Tensor], pair: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(functional_call(net, {**tensors, **chosen}, (pair[None],)), target[None])

    each = vmap(grad(loss), in_dims=(None, 0, 0))
    found: dict[str, list[Tensor]] = {block: [] for block in blocks}
    for some, answers in zip(pairs.split(CHUNK), targets.split(CHUNK), strict=True):
        grads = each(moved, some, answers)
        for block, names in blocks.items():
            squares = sum(grads[name].flatten(1).square().sum(1) for name in names)
            assert isinstance(squares, Tensor)
            found[block].append(squares.sqrt())
    return {block: torch.cat(norms) for block, norms in found.items()}


def _by_hand(net: PlainNetwork, pairs: Tensor, targets: Tensor, biased: bool) -> dict[str, Tensor]:
    """The same from outer products: ∇W = input ⊗ gradient in the output."""
    with torch.no_grad():
        delta = _delta(net, pairs, targets)
        if isinstance(net, PlainTransformer):
            z, hidden = net.combined(pairs), net.neurons(pairs)
            stream = z + hidden @ net.W_out
            above = delta @ net.W_U.T
            below = (above @ net.W_out.T) * (hidden > 0)
            written = above.norm(dim=1) * hidden.norm(dim=1)
            taken = below.norm(dim=1) * z.norm(dim=1)
            return {"head": delta.norm(dim=1) * stream.norm(dim=1), "mlp": torch.hypot(written, taken)}
        z, hidden = net.combined(pairs), net.neurons(pairs)
        below = (delta @ net.W_U.T) * (hidden > 0)
        first, second = (below @ net.W_1.T).chunk(2, dim=1)
        same = pairs[:, 0] == pairs[:, 1]
        embedding = torch.where(
            same, (first + second).norm(dim=1), torch.hypot(first.norm(dim=1), second.norm(dim=1))
        )
        one = (z.square().sum(1) + biased).sqrt()
        return {
            "head": delta.norm(dim=1) * hidden.norm(dim=1),
            "hidden.1": below.norm(dim=1) * one,
            "embedding": embedding,
        }


def _delta(net: PlainNetwork, pairs: Tensor, targets: Tensor) -> Tensor:
    delta = net(pairs).softmax(1)
    own = torch.zeros_like(delta).scatter(1, targets[:, None], 1.0)
    # 1 − p would lose every digit of confident samples
    others = delta * (1 - own)
    return others - own * others.sum(1, keepdim=True)


def _bounds(
    net: PlainNetwork, pairs: Tensor, targets: Tensor, samples: dict[str, Tensor], biased: bool
) -> dict[str, float]:
    """Norms over their chain-rule bounds; of an attention network the head's equality alone."""
    found = {"gradients.bound_slack.head": 1.0}
    if not isinstance(net, PlainMLP):
        return found
    with torch.no_grad():
        delta = _delta(net, pairs, targets).norm(dim=1)
        input_norm = (net.combined(pairs).square().sum(1) + biased).sqrt()
        head, first = (torch.linalg.matrix_norm(w, ord=2) for w in (net.W_U, net.W_1))
        spread = torch.where(pairs[:, 0] == pairs[:, 1], 2**0.5, 1.0).double()
        bounds = {"hidden.1": delta * head * input_norm, "embedding": delta * head * first * spread}
        for block, bound in bounds.items():
            found[f"gradients.bound_slack.{block}"] = (samples[block] / bound).mean().item()
        above = samples["head"] > bounds["embedding"]
        found["gradients.head_above_bound"] = above.double().mean().item()
    return found
