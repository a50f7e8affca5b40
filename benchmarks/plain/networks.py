"""The networks of the benchmark as notebooks write them: an ``nn.Module`` over all positions, one save at a time.

Imports nothing of grokscope. Shapes: N inputs, p residues, d embedding or model width, h neurons, H heads, k head
width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Setting:
    """What a notebook knows of the run whose checkpoints it reads: (a + b) mod p, and the pairs trained on."""

    family: str
    p: int
    train: Tensor  # (N, 2) int64
    test: Tensor
    stored: str = "float32"

    @property
    def pairs(self) -> Tensor:
        """(p², 2): every input."""
        return torch.cartesian_prod(torch.arange(self.p), torch.arange(self.p))


class PlainMLP(nn.Module):
    """Shared embedding, concatenation, one hidden ReLU layer, no bias in the head."""

    def __init__(self, weights: Mapping[str, np.ndarray]) -> None:
        super().__init__()
        self.W_E = _parameter(weights["embed.W_E"])
        self.W_1 = _parameter(weights["hidden.1.W"])
        bias = weights.get("hidden.1.b")
        self.b_1 = _parameter(np.zeros(self.W_1.shape[1]) if bias is None else bias)
        self.W_U = _parameter(weights["head.W_U"])

    def combined(self, pairs: Tensor) -> Tensor:
        return self.W_E[pairs].flatten(1)

    def neurons(self, pairs: Tensor) -> Tensor:
        """(N, h): activations after the ReLU."""
        return torch.relu(self.combined(pairs) @ self.W_1 + self.b_1)

    def forward(self, pairs: Tensor) -> Tensor:
        return self.neurons(pairs) @ self.W_U


class PlainTransformer(nn.Module):
    """One layer on [a, b, =] without norms or biases, in TransformerLens names, all positions."""

    def __init__(self, weights: Mapping[str, np.ndarray]) -> None:
        super().__init__()
        self.W_E, self.W_pos = _parameter(weights["embed.W_E"]), _parameter(weights["pos_embed.W_pos"])
        attention = (_parameter(weights[f"blocks.0.attn.W_{x}"]) for x in "QKVO")
        self.W_Q, self.W_K, self.W_V, self.W_O = attention
        self.W_in, self.W_out = (_parameter(weights[f"blocks.0.mlp.W_{x}"]) for x in ("in", "out"))
        self.W_U = _parameter(weights["unembed.W_U"])

    def residual(self, pairs: Tensor) -> Tensor:
        """(N, 3, d): the residual stream after attention."""
        equals = torch.full((len(pairs), 1), len(self.W_E) - 1)
        x = self.W_E[torch.cat([pairs, equals], dim=1)] + self.W_pos
        q, k, v = (torch.einsum("npd,Hdk->npHk", x, w) for w in (self.W_Q, self.W_K, self.W_V))
        scores = torch.einsum("nqHk,npHk->nHqp", q, k) / math.sqrt(q.shape[-1])
        scores = scores.masked_fill(torch.triu(torch.ones(3, 3, dtype=torch.bool), 1), -math.inf)
        mixed = torch.einsum("nHqp,npHk->nqHk", scores.softmax(-1), v)
        return x + torch.einsum("nqHk,Hkd->nqd", mixed, self.W_O)

    def combined(self, pairs: Tensor) -> Tensor:
        return self.residual(pairs)[:, -1]

    def neurons(self, pairs: Tensor) -> Tensor:
        """(N, h): activations at the last position."""
        return torch.relu(self.residual(pairs) @ self.W_in)[:, -1]

    def forward(self, pairs: Tensor) -> Tensor:
        x = self.residual(pairs)
        x = x + torch.relu(x @ self.W_in) @ self.W_out
        return (x @ self.W_U)[:, -1]


PlainNetwork = PlainMLP | PlainTransformer


def network(setting: Setting, weights: Mapping[str, np.ndarray]) -> PlainNetwork:
    """One checkpoint, in float64."""
    return PlainMLP(weights) if setting.family == "mlp" else PlainTransformer(weights)


def _parameter(values: np.ndarray) -> nn.Parameter:
    return nn.Parameter(torch.from_numpy(np.asarray(values, dtype=np.float64)))
