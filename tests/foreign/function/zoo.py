"""Small networks as strangers write, train and save them; none of the code under test takes part in any.

Every module takes (N,) operands a and b and returns (N, C) logits of the answer. A :class:`Specimen` says what
it is trained on and how its author saves it; :func:`grown` trains it once a test run.
"""

# torch types what a module holds as Tensor or Module, and strangers do not cast
# pyright: reportIndexIssue=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportGeneralTypeIssues=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

# ---------------------------------------------------------------------------------------------------- modules


class EncoderNet(nn.Module):
    """torch's own encoder on [a, b]."""

    def __init__(
        self, p: int, d: int = 32, heads: int = 4, layers: int = 1, pool: str = "mean", **kwargs: Any
    ):
        super().__init__()
        self.pool = pool
        self.embedding = nn.Embedding(p, d)
        self.pos_embedding = nn.Parameter(torch.randn(1, 2, d) * 0.02)
        layer = nn.TransformerEncoderLayer(
            d_model=d, nhead=heads, dim_feedforward=4 * d, dropout=0.0, batch_first=True, **kwargs
        )
        self.transformer = nn.TransformerEncoder(layer, num_layers=layers, enable_nested_tensor=False)
        self.fc_out = nn.Linear(d, p)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        x = self.transformer(self.embedding(torch.stack([a, b], 1)) + self.pos_embedding)
        return self.fc_out(x.mean(dim=1) if self.pool == "mean" else x[:, -1])


class DecoderBlock(nn.Module):
    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(dim, heads)
        self.self_attn_norm = nn.LayerNorm(dim)
        self.ffn = nn.Sequential(nn.Linear(dim, dim * 4), nn.GELU(), nn.Linear(dim * 4, dim))
        self.ffn_norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.full((len(x), len(x)), -float("inf"), device=x.device, dtype=x.dtype).triu(1)
        a1, _ = self.self_attn(x, x, x, attn_mask=mask)
        a1 = self.self_attn_norm(x + a1)
        return self.ffn_norm(a1 + self.ffn(a1))


class SequentialDecoder(nn.Module):
    """Post-norm decoder blocks, a norm and a head, all in one ``nn.Sequential`` on [a, op, b, =]."""

    def __init__(self, p: int, dim: int = 32, heads: int = 4, layers: int = 2):
        super().__init__()
        self.p = p
        self.token_embeddings = nn.Embedding(p + 2, dim)
        self.position_embeddings = nn.Embedding(4, dim)
        self.model = nn.Sequential(
            *[DecoderBlock(dim, heads) for _ in range(layers)], nn.LayerNorm(dim), nn.Linear(dim, p + 2)
        )

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        tokens = torch.stack([a, torch.full_like(a, self.p), b, torch.full_like(a, self.p + 1)], 1)
        x = self.token_embeddings(tokens) + self.position_embeddings(torch.arange(4))
        return self.model(x.transpose(0, 1))[-1]


class NanoAttention(nn.Module):
    def __init__(self, d: int, heads: int, bias: bool, length: int, buffer: bool):
        super().__init__()
        self.c_attn = nn.Linear(d, 3 * d, bias=bias)
        self.c_proj = nn.Linear(d, d, bias=bias)
        self.n_head, self.buffer = heads, buffer
        if buffer:
            self.register_buffer("bias", torch.tril(torch.ones(length, length)).view(1, 1, length, length))

    def forward(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        q, k, v = self.c_attn(x).split(d, dim=2)
        q, k, v = (y.view(n, t, self.n_head, d // self.n_head).transpose(1, 2) for y in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).contiguous().view(n, t, d))


class NanoNorm(nn.Module):
    def __init__(self, d: int, bias: bool):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d))
        self.bias = nn.Parameter(torch.zeros(d)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, 1e-5)


class NanoMLP(nn.Module):
    def __init__(self, d: int, bias: bool, tanh: bool):
        super().__init__()
        self.c_fc = nn.Linear(d, 4 * d, bias=bias)
        self.c_proj = nn.Linear(4 * d, d, bias=bias)
        self.approximate = "tanh" if tanh else "none"

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.gelu(self.c_fc(x), approximate=self.approximate))


class NanoBlock(nn.Module):
    def __init__(self, d: int, heads: int, bias: bool, length: int, tanh: bool, buffer: bool):
        super().__init__()
        self.ln_1 = NanoNorm(d, bias)
        self.attn = NanoAttention(d, heads, bias, length, buffer)
        self.ln_2 = NanoNorm(d, bias)
        self.mlp = NanoMLP(d, bias, tanh)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class NanoGPT(nn.Module):
    """The small GPT with a head tied to the embedding, on [a, b, =]."""

    def __init__(self, p: int, d: int = 32, heads: int = 4, layers: int = 1, bias: bool = False,
                 tanh: bool = False, buffer: bool = False):  # fmt: skip
        super().__init__()
        self.p = p
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(p + 1, d),
                "wpe": nn.Embedding(3, d),
                "h": nn.ModuleList([NanoBlock(d, heads, bias, 3, tanh, buffer) for _ in range(layers)]),
                "ln_f": NanoNorm(d, bias),
            }
        )
        self.lm_head = nn.Linear(d, p + 1, bias=False)
        self.transformer.wte.weight = self.lm_head.weight
        nn.init.normal_(self.lm_head.weight, std=0.1)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        tokens = torch.stack([a, b, torch.full_like(a, self.p)], 1)
        x = self.transformer.wte(tokens) + self.transformer.wpe(torch.arange(3))
        for block in self.transformer.h:
            x = block(x)
        return self.lm_head(self.transformer.ln_f(x)[:, -1])


class RMSNorm(nn.Module):
    def __init__(self, d: int, eps: float = 1e-6):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


def rotated(x: Tensor, base: float, traditional: bool) -> Tensor:
    """(N, H, T, k) with rotary angles."""
    k = x.shape[-1]
    angle = torch.arange(x.shape[-2], dtype=x.dtype)[:, None] * base ** (
        -torch.arange(0, k, 2, dtype=x.dtype) / k
    )
    cos, sin = angle.cos(), angle.sin()
    if traditional:
        even, odd = x[..., ::2], x[..., 1::2]
        return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)
    left, right = x.chunk(2, dim=-1)
    return torch.cat([left * cos - right * sin, right * cos + left * sin], -1)


class LlamaAttention(nn.Module):
    def __init__(self, d: int, heads: int, kv: int, traditional: bool):
        super().__init__()
        self.heads, self.kv, self.k, self.traditional = heads, kv, d // heads, traditional
        self.q_proj = nn.Linear(d, heads * self.k, bias=False)
        self.k_proj = nn.Linear(d, kv * self.k, bias=False)
        self.v_proj = nn.Linear(d, kv * self.k, bias=False)
        self.o_proj = nn.Linear(heads * self.k, d, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        q = self.q_proj(x).view(n, t, self.heads, self.k).transpose(1, 2)
        k = self.k_proj(x).view(n, t, self.kv, self.k).transpose(1, 2)
        v = self.v_proj(x).view(n, t, self.kv, self.k).transpose(1, 2)
        q, k = rotated(q, 10000.0, self.traditional), rotated(k, 10000.0, self.traditional)
        k, v = (y.repeat_interleave(self.heads // self.kv, dim=1) for y in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(y.transpose(1, 2).reshape(n, t, d))


class LlamaMLP(nn.Module):
    def __init__(self, d: int, m: int):
        super().__init__()
        self.gate_proj = nn.Linear(d, m, bias=False)
        self.up_proj = nn.Linear(d, m, bias=False)
        self.down_proj = nn.Linear(m, d, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class LlamaLayer(nn.Module):
    def __init__(self, d: int, heads: int, kv: int, m: int, traditional: bool):
        super().__init__()
        self.self_attn = LlamaAttention(d, heads, kv, traditional)
        self.mlp = LlamaMLP(d, m)
        self.input_layernorm = RMSNorm(d)
        self.post_attention_layernorm = RMSNorm(d)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


class LlamaNet(nn.Module):
    """RMS norms, rotary positions and gated MLPs, on [a, b, =]."""

    def __init__(self, p: int, d: int = 32, heads: int = 4, kv: int = 4, layers: int = 1, tie: bool = False,
                 traditional: bool = False):  # fmt: skip
        super().__init__()
        self.p, self.tie = p, tie
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(p + 1, d)
        nn.init.normal_(self.model.embed_tokens.weight, std=0.3)
        self.model.layers = nn.ModuleList(
            [LlamaLayer(d, heads, kv, 2 * d, traditional) for _ in range(layers)]
        )
        self.model.norm = RMSNorm(d)
        if not tie:
            self.lm_head = nn.Linear(d, p + 1, bias=False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        x = self.model.embed_tokens(torch.stack([a, b, torch.full_like(a, self.p)], 1))
        for layer in self.model.layers:
            x = layer(x)
        x = self.model.norm(x)[:, -1]
        return x @ self.model.embed_tokens.weight.T if self.tie else self.lm_head(x)


class OwnAttention(nn.Module):
    """Separate projections with biases, heads of one size, optionally masked."""

    def __init__(self, d: int, heads: int, causal: bool, bias: bool = True):
        super().__init__()
        self.heads, self.causal = heads, causal
        self.query = nn.Linear(d, d, bias=bias)
        self.key = nn.Linear(d, d, bias=bias)
        self.value = nn.Linear(d, d, bias=bias)
        self.out = nn.Linear(d, d, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        q, k, v = (
            m(x).view(n, t, self.heads, -1).transpose(1, 2) for m in (self.query, self.key, self.value)
        )
        scores = q @ k.transpose(-2, -1) / math.sqrt(d // self.heads)
        if self.causal:
            scores = scores.masked_fill(torch.ones(t, t).triu(1).bool(), float("-inf"))
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(n, t, d))


class PlainBlock(nn.Module):
    def __init__(self, d: int, heads: int, m: int, causal: bool):
        super().__init__()
        self.attention = OwnAttention(d, heads, causal)
        self.feed_forward = nn.Sequential(nn.Linear(d, m), nn.ReLU(), nn.Linear(m, d))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        return x + self.feed_forward(x)


class PlainNet(nn.Module):
    """Two layers without any norm on [a, b, =], positions from an embedding."""

    def __init__(self, p: int, d: int = 32, heads: int = 4, layers: int = 2, causal: bool = False):
        super().__init__()
        self.p = p
        self.tok_embed = nn.Embedding(p + 1, d)
        self.pos_embed = nn.Embedding(3, d)
        self.layers = nn.ModuleList([PlainBlock(d, heads, 2 * d, causal) for _ in range(layers)])
        self.unembed = nn.Linear(d, p, bias=False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        x = self.tok_embed(torch.stack([a, b, torch.full_like(a, self.p)], 1)) + self.pos_embed(
            torch.arange(3)
        )
        for layer in self.layers:
            x = layer(x)
        return self.unembed(x[:, -1])


class FusedAttention(nn.Module):
    """One matrix for queries, keys and values, split as ``order`` says."""

    def __init__(self, d: int, heads: int, order: str, bias: bool):
        super().__init__()
        self.heads, self.order = heads, order
        self.to_qkv = nn.Linear(d, 3 * d, bias=bias)
        self.to_out = nn.Linear(d, d)

    def forward(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        packed = self.to_qkv(x)
        if self.order == "3 h d":
            q, k, v = packed.view(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        elif self.order == "h 3 d":
            q, k, v = packed.view(n, t, self.heads, 3, -1).permute(3, 0, 2, 1, 4)
        else:
            q, k, v = packed.view(n, t, self.heads, -1, 3).permute(4, 0, 2, 1, 3)
        y = ((q @ k.transpose(-1, -2)) * (d // self.heads) ** -0.5).softmax(-1) @ v
        return self.to_out(y.transpose(1, 2).reshape(n, t, d))


class FusedBlock(nn.Module):
    def __init__(self, d: int, heads: int, order: str, bias: bool):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.attn = FusedAttention(d, heads, order, bias)
        self.mlp = nn.Sequential(nn.Linear(d, 2 * d), nn.GELU(), nn.Dropout(0.0), nn.Linear(2 * d, d))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class FusedNet(nn.Module):
    def __init__(self, p: int, d: int = 32, heads: int = 4, order: str = "3 h d", bias: bool = False):
        super().__init__()
        self.p = p
        self.token_emb = nn.Embedding(p + 2, d)
        self.pos_emb = nn.Parameter(torch.randn(4, d) * 0.1)
        self.blocks = nn.ModuleList([FusedBlock(d, heads, order, bias)])
        self.norm = nn.LayerNorm(d)
        self.head = nn.Linear(d, p + 2)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        tokens = torch.stack([a, torch.full_like(a, self.p), b, torch.full_like(a, self.p + 1)], 1)
        x = self.token_emb(tokens) + self.pos_emb
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, -1])


class ImageGPTBlock(nn.Module):
    """The first norm replaces the residual stream."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = nn.MultiheadAttention(dim, heads)
        self.mlp = nn.Sequential(nn.Linear(dim, dim * 4), nn.GELU(), nn.Linear(dim * 4, dim))

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.full((len(x), len(x)), -float("inf"), dtype=x.dtype).triu(1)
        x = self.ln_1(x)
        x = x + self.attn(x, x, x, attn_mask=mask, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class ImageGPT(nn.Module):
    """Blocks of :class:`ImageGPTBlock` on [a, op, b, =], a norm and a head without bias."""

    def __init__(self, p: int, dim: int = 32, heads: int = 4, layers: int = 2):
        super().__init__()
        self.p = p
        self.token_embeddings = nn.Embedding(p + 2, dim)
        self.position_embeddings = nn.Embedding(5, dim)
        self.layers = nn.ModuleList([ImageGPTBlock(dim, heads) for _ in range(layers)])
        self.ln_f = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, p + 2, bias=False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        tokens = torch.stack([a, torch.full_like(a, self.p + 1), b, torch.full_like(a, self.p)])
        x = self.token_embeddings(tokens) + self.position_embeddings(torch.arange(4))[:, None]
        for layer in self.layers:
            x = layer(x)
        return self.head(self.ln_f(x))[-1]


class MetaAttention(nn.Module):
    def __init__(self, d: int, heads: int):
        super().__init__()
        self.heads = heads
        self.wq, self.wk, self.wv, self.wo = (nn.Linear(d, d, bias=False) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        q, k, v = (w(x).view(n, t, self.heads, -1).transpose(1, 2) for w in (self.wq, self.wk, self.wv))
        q, k = rotated(q, 10000.0, True), rotated(k, 10000.0, True)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.wo(y.transpose(1, 2).reshape(n, t, d))


class MetaFeedForward(nn.Module):
    def __init__(self, d: int, m: int):
        super().__init__()
        self.w1, self.w2, self.w3 = (
            nn.Linear(d, m, bias=False),
            nn.Linear(m, d, bias=False),
            nn.Linear(d, m, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class MetaBlock(nn.Module):
    def __init__(self, d: int, heads: int, m: int):
        super().__init__()
        self.attention, self.feed_forward = MetaAttention(d, heads), MetaFeedForward(d, m)
        self.attention_norm, self.ffn_norm = RMSNorm(d, 1e-5), RMSNorm(d, 1e-5)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.feed_forward(self.ffn_norm(x))


class MetaNet(nn.Module):
    """The reference names of Llama, on [a, op, b, =]."""

    def __init__(self, p: int, d: int = 32, heads: int = 4, layers: int = 1):
        super().__init__()
        self.p = p
        self.tok_embeddings = nn.Embedding(p + 2, d)
        self.layers = nn.ModuleList([MetaBlock(d, heads, 48) for _ in range(layers)])
        self.norm = RMSNorm(d, 1e-5)
        self.output = nn.Linear(d, p, bias=False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        x = self.tok_embeddings(
            torch.stack([a, torch.full_like(a, self.p), b, torch.full_like(a, self.p + 1)], 1)
        )
        for layer in self.layers:
            x = layer(x)
        return self.output(self.norm(x)[:, -1])


class VitAttention(nn.Module):
    def __init__(self, d: int, heads: int, k: int):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(d)
        self.to_qkv = nn.Linear(d, 3 * heads * k, bias=False)
        self.to_out = nn.Sequential(nn.Linear(heads * k, d), nn.Dropout(0.0))

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = (
            y.view(n, t, self.heads, -1).transpose(1, 2) for y in self.to_qkv(self.norm(x)).chunk(3, dim=-1)
        )
        y = ((q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5).softmax(-1) @ v
        return self.to_out(y.transpose(1, 2).flatten(2))


class VitFeedForward(nn.Module):
    def __init__(self, d: int, m: int):
        super().__init__()
        self.net = nn.Sequential(
            nn.LayerNorm(d), nn.Linear(d, m), nn.GELU(), nn.Dropout(0.0), nn.Linear(m, d)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class VitTransformer(nn.Module):
    def __init__(self, d: int, layers: int, heads: int, k: int, m: int):
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.ModuleList([VitAttention(d, heads, k), VitFeedForward(d, m)]) for _ in range(layers)]
        )
        self.norm = nn.LayerNorm(d)

    def forward(self, x: Tensor) -> Tensor:
        for attn, ff in self.layers:
            x = attn(x) + x
            x = ff(x) + x
        return self.norm(x)


class VitNet(nn.Module):
    """Layers that are lists of two, heads wider than the model, mean over [a, b]."""

    def __init__(self, p: int, d: int = 32):
        super().__init__()
        self.to_embedding = nn.Embedding(p, d)
        self.pos_embedding = nn.Parameter(torch.randn(1, 2, d))
        self.transformer = VitTransformer(d, 1, 4, 12, 48)
        self.mlp_head = nn.Linear(d, p)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        x = self.to_embedding(torch.stack([a, b], 1)) + self.pos_embedding
        return self.mlp_head(self.transformer(x).mean(dim=1))


class OneHead(nn.Module):
    def __init__(self, d: int, k: int):
        super().__init__()
        self.query = nn.Linear(d, k, bias=False)
        self.key = nn.Linear(d, k, bias=False)
        self.value = nn.Linear(d, k, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.query(x), self.key(x), self.value(x)
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        scores = scores.masked_fill(torch.ones(x.shape[1], x.shape[1]).triu(1).bool(), float("-inf"))
        return scores.softmax(-1) @ v


class HeadedAttention(nn.Module):
    def __init__(self, d: int, heads: int):
        super().__init__()
        self.attn_heads = nn.ModuleList([OneHead(d, d // heads) for _ in range(heads)])
        self.o = nn.Linear(d, d, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(torch.cat([head(x) for head in self.attn_heads], -1))


class HeadedFFN(nn.Module):
    def __init__(self, d: int):
        super().__init__()
        self.ffn = nn.Sequential(nn.Linear(d, 4 * d, bias=False), nn.ReLU(), nn.Linear(4 * d, d, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.ffn(x)


class HeadedBlock(nn.Module):
    def __init__(self, d: int, heads: int):
        super().__init__()
        self.self_attn = HeadedAttention(d, heads)
        self.self_attn_norm = nn.LayerNorm(d)
        self.ffn = HeadedFFN(d)
        self.ffn_norm = nn.LayerNorm(d)

    def forward(self, x: Tensor) -> Tensor:
        x = self.self_attn_norm(x + self.self_attn(x))
        return self.ffn_norm(x + self.ffn(x))


class HeadedDecoder(nn.Module):
    def __init__(self, d: int, heads: int, layers: int):
        super().__init__()
        self.blocks = nn.ModuleList([HeadedBlock(d, heads) for _ in range(layers)])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def sinusoids(length: int, d: int) -> Tensor:
    table = torch.zeros(length, d)
    for position, i in itertools.product(range(length), range(0, d, 2)):
        table[position, i] = math.sin(position / 10000 ** (i / d))
        table[position, i + 1] = math.cos(position / 10000 ** (i / d))
    return table


class HeadedNet(nn.Module):
    """Special tokens first (end, =, op), a module a head, positions from a table of sinusoids."""

    def __init__(self, p: int, d: int = 32, heads: int = 4, layers: int = 2, table: bool = True):
        super().__init__()
        self.first = self.first_class = 3
        self.embedding = nn.Embedding(p + 3, d)
        if table:
            self.register_buffer("position_encoding", sinusoids(50, d))
        else:
            self.table = [sinusoids(50, d)]
        self.decoder = HeadedDecoder(d, heads, layers)
        self.linear = nn.Linear(d, p + 3, bias=False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        # <end> a op b =
        row = torch.zeros_like(a)
        tokens = torch.stack([row, a + self.first, row + 2, b + self.first, row + 1], 1)
        table = (
            self.position_encoding
            if hasattr(self, "position_encoding")
            else self.table[0].to(self.linear.weight.dtype)
        )
        x = self.embedding(tokens) + table[:5]
        return self.linear(self.decoder(x)[:, -1])


class AttentionOnly(nn.Module):
    """Bare parameters under short names; no MLP."""

    def __init__(self, p: int, d: int = 32, heads: int = 4):
        super().__init__()
        self.p = p
        k = d // heads
        self.W_E = nn.Parameter(torch.randn(p + 1, d) / math.sqrt(d))
        self.W_pos = nn.Parameter(torch.randn(3, d) / math.sqrt(d))
        self.W_Q = nn.Parameter(torch.randn(heads, d, k) / math.sqrt(d))
        self.W_K = nn.Parameter(torch.randn(heads, d, k) / math.sqrt(d))
        self.W_V = nn.Parameter(torch.randn(heads, d, k) / math.sqrt(d))
        self.W_O = nn.Parameter(torch.randn(heads, k, d) / math.sqrt(d))
        self.W_U = nn.Parameter(torch.randn(d, p) / math.sqrt(d))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        x = self.W_E[torch.stack([a, b, torch.full_like(a, self.p)], 1)] + self.W_pos
        q, k, v = (torch.einsum("ntd,hdk->nhtk", x, w) for w in (self.W_Q, self.W_K, self.W_V))
        pattern = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
        x = x + torch.einsum("nhtk,hkd->ntd", pattern @ v, self.W_O)
        return x[:, -1] @ self.W_U


class EmbeddedMLP(nn.Module):
    """Embeddings side by side or summed, three linear layers or two."""

    def __init__(self, p: int, d: int = 24, hidden: tuple[int, ...] = (64, 48), out: int = 0, sides: str = "cat",
                 act: Callable[[Tensor], Tensor] = torch.relu):  # fmt: skip
        super().__init__()
        self.sides, self.act = sides, act
        self.embedding = nn.Embedding(p, d)
        widths = [2 * d if sides == "cat" else d, *hidden, out or p]
        self.count = len(widths) - 1
        for index in range(self.count):
            setattr(self, f"fc{index + 1}", nn.Linear(widths[index], widths[index + 1]))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        x, y = self.embedding(a), self.embedding(b)
        x = torch.cat([x, y], -1) if self.sides == "cat" else x + y
        for index in range(self.count - 1):
            x = self.act(getattr(self, f"fc{index + 1}")(x))
        return getattr(self, f"fc{self.count}")(x)


class TwoTables(nn.Module):
    def __init__(self, p: int, d: int = 24, m: int = 64, out: int = 0):
        super().__init__()
        self.embed_a, self.embed_b = nn.Embedding(p, d), nn.Embedding(p, d)
        self.linear = nn.Linear(2 * d, m)
        self.unembed = nn.Linear(m, out or p, bias=False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        x = torch.cat([self.embed_a(a), self.embed_b(b)], -1)
        return self.unembed(F.gelu(self.linear(x)))


class OneHotNet(nn.Module):
    def __init__(
        self, p: int, hidden: tuple[int, ...] = (64,), act: type[nn.Module] = nn.ReLU, bias: bool = True
    ):
        super().__init__()
        self.p = p
        widths = [2 * p, *hidden]
        layers: list[nn.Module] = []
        for one, other in itertools.pairwise(widths):
            layers += [nn.Linear(one, other, bias=bias), act()]
        self.net = nn.Sequential(*layers, nn.Linear(widths[-1], p, bias=bias))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        kind = self.net[0].weight.dtype
        return self.net(torch.cat([F.one_hot(a, self.p), F.one_hot(b, self.p)], -1).to(kind))


class Quadratic(nn.Module):
    """The closed-form net: squares of a sum of one-hot projections, no bias."""

    def __init__(self, p: int, width: int = 96):
        super().__init__()
        self.p, self.width = p, width
        self.W1 = nn.Parameter(torch.randn(width, 2 * p) * 0.3)
        self.W2 = nn.Parameter(torch.randn(p, width) * 0.3)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        x = torch.cat([F.one_hot(a, self.p), F.one_hot(b, self.p)], -1).to(self.W1.dtype)
        return (x @ self.W1.T) ** 2 @ self.W2.T


class Recurrent(nn.Module):
    def __init__(self, p: int, d: int = 24):
        super().__init__()
        self.embedding = nn.Embedding(p, d)
        self.lstm = nn.LSTM(d, d, batch_first=True)
        self.fc = nn.Linear(d, p)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.fc(self.lstm(self.embedding(torch.stack([a, b], 1)))[0][:, -1])


class Convolutional(nn.Module):
    def __init__(self, p: int):
        super().__init__()
        self.p = p
        self.conv1 = nn.Conv1d(2, 8, 3, padding=1)
        self.fc = nn.Linear(8 * p, p)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        x = torch.stack([F.one_hot(a, self.p), F.one_hot(b, self.p)], 1).to(self.fc.weight.dtype)
        return self.fc(torch.relu(self.conv1(x)).flatten(1))


# ------------------------------------------------------------------------------------------------------ tasks


def inverse(x: int, p: int) -> int:
    return pow(x, -1, p)


RULES: dict[str, Callable[[int, int, int], int]] = {
    "a+b": lambda a, b, p: (a + b) % p,
    "a-b": lambda a, b, p: (a - b) % p,
    "b-a": lambda a, b, p: (b - a) % p,
    "a*b": lambda a, b, p: a * b % p,
    "a/b": lambda a, b, p: a * inverse(b, p) % p,
    "b/a": lambda a, b, p: b * inverse(a, p) % p,
    "a2+b2": lambda a, b, p: (a * a + b * b) % p,
    "a2+ab+b2": lambda a, b, p: (a * a + a * b + b * b) % p,
}

OPERATIONS = {
    "a+b": ("add", False), "a-b": ("sub", False), "b-a": ("sub", True), "a*b": ("mul", False),
    "a/b": ("div", False), "b/a": ("div", True), "a2+b2": ("x2+y2", False), "a2+ab+b2": ("x2+xy+y2", False),
}  # fmt: skip


@lru_cache
def permutations(kind: str) -> tuple[tuple[int, ...], ...]:
    """Elements of S3, S4 or A4 in lexicographic order."""
    size = int(kind[1])
    every = list(itertools.permutations(range(size)))

    def even(one: tuple[int, ...]) -> bool:
        return sum(one[i] > one[j] for i in range(size) for j in range(i + 1, size)) % 2 == 0

    return tuple(one for one in every if kind[0] == "S" or even(one))


def product(kind: str, first_then: bool) -> Callable[[int, int, int], int]:
    elements = permutations(kind)
    index = {one: i for i, one in enumerate(elements)}

    def rule(a: int, b: int, p: int) -> int:
        del p
        x, y = (elements[b], elements[a]) if first_then else (elements[a], elements[b])
        return index[tuple(x[i] for i in y)]

    return rule


# -------------------------------------------------------------------------------------------------- specimens


def mean_squared(logits: Tensor, targets: Tensor) -> Tensor:
    """What ``nn.MSELoss()`` makes of one-hot answers."""
    return F.mse_loss(logits, F.one_hot(targets, logits.shape[-1]).to(logits.dtype))


def half_squared(logits: Tensor, targets: Tensor) -> Tensor:
    """½‖z − onehot‖², the mean over pairs."""
    answers = F.one_hot(targets, logits.shape[-1]).to(logits.dtype)
    return 0.5 * (logits - answers).square().sum(dim=-1).mean()


@dataclass(frozen=True, eq=False)
class Specimen:
    """What is trained and how it is saved. ``make`` takes p; ``save`` a folder and the trained thing."""

    name: str
    make: Callable[[int], nn.Module]
    save: Callable[[Path, Grown], Path]
    p: int = 11
    rule: str | Callable[[int, int, int], int] = "a+b"
    seed: int = 0
    fraction: float = 0.6
    steps: int = 250
    rate: float = 5e-3
    decay: float = 0.01
    slow: bool = False
    recorded: bool = True
    dtype: torch.dtype = torch.float32
    loss: Callable[..., Tensor] = F.cross_entropy
    config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Grown:
    """A trained specimen: the module (float64), the pairs that its rule defines, and what its author measured."""

    of: Specimen
    module: nn.Module
    optimizer: torch.optim.Optimizer
    pairs: Tensor
    targets: Tensor
    train: Tensor
    numbers: Mapping[str, float]

    def state(self) -> dict[str, Tensor]:
        """The state dict as it was trained, in the specimen's own precision."""
        return {
            name: value.detach().to(self.of.dtype).clone() if value.is_floating_point() else value.clone()
            for name, value in self.module.state_dict().items()
        }

    def logits(self) -> Tensor:
        """(p, p, C) float64: what the author's module answers to every pair."""
        p = self.of.p
        pairs = torch.cartesian_prod(torch.arange(p), torch.arange(p))
        with torch.no_grad():
            return self.module(pairs[:, 0], pairs[:, 1]).reshape(p, p, -1)

    def config(self) -> dict[str, Any]:
        one = self.of
        return {
            "p": one.p, "seed": one.seed, "train_fraction": one.fraction, "lr": one.rate,
            "weight_decay": one.decay, **one.config,
        }  # fmt: skip


@cache
def grown(one: Specimen) -> Grown:
    """The specimen, trained: the split from torch's generator, all pairs of it at every step."""
    rule = RULES[one.rule] if isinstance(one.rule, str) else one.rule
    kept, targets = [], []
    for a, b in itertools.product(range(one.p), range(one.p)):
        try:
            targets.append(rule(a, b, one.p))
        except ValueError:
            continue
        kept.append((a, b))
    torch.manual_seed(1234)
    module = one.make(one.p)
    pairs, answers = torch.tensor(kept), torch.tensor(targets) + getattr(module, "first_class", 0)
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(one.seed))
    train = torch.zeros(len(pairs), dtype=torch.bool)
    train[order[: int(one.fraction * len(pairs))]] = True
    optimizer = torch.optim.AdamW(module.parameters(), lr=one.rate, weight_decay=one.decay, betas=(0.9, 0.98))
    a, b = pairs[train].unbind(1)
    for _ in range(one.steps):
        optimizer.zero_grad()
        loss = one.loss(module(a, b), answers[train])
        loss.backward()
        optimizer.step()
    # what is saved is what was trained, rounded to the precision of the file
    module.load_state_dict(
        {k: v.to(one.dtype) if v.is_floating_point() else v for k, v in module.state_dict().items()}
    )
    module.double().eval()
    with torch.no_grad():
        logits = module(*pairs.unbind(1))
    numbers = {}
    for name, mask in (("train", train), ("test", ~train)):
        numbers[f"{name}_loss"] = one.loss(logits[mask], answers[mask]).item()
        numbers[f"{name}_acc"] = (logits[mask].argmax(-1) == answers[mask]).double().mean().item()
    return Grown(one, module, optimizer, pairs, answers, train, numbers)


# ------------------------------------------------------------------------------------------------- containers


def bare(folder: Path, one: Grown) -> Path:
    """A state dict and nothing else."""
    torch.save(one.state(), folder / "model.pt")
    return folder / "model.pt"


def beside(folder: Path, one: Grown) -> Path:
    """A state dict with config.json and metrics.json beside it."""
    torch.save(one.state(), folder / "final_model.pt")
    (folder / "config.json").write_text(json.dumps(one.config()))
    (folder / "metrics.json").write_text(json.dumps(dict(one.numbers)))
    return folder


def training_state(folder: Path, one: Grown) -> Path:
    """The usual dictionary of a training script."""
    torch.save(
        {
            "epoch": one.of.steps,
            "model_state_dict": one.state(),
            "optimizer_state_dict": one.optimizer.state_dict(),
            **one.numbers,
            "config": one.config(),
        },
        folder / f"checkpoint_{one.of.steps}.pt",
    )
    return folder / f"checkpoint_{one.of.steps}.pt"


def prefixed(prefix: str) -> Callable[[Path, Grown], Path]:
    """The training state with the prefix of a wrapper before every name."""

    def save(folder: Path, one: Grown) -> Path:
        state = {prefix + name: value for name, value in one.state().items()}
        torch.save(
            {"step": one.of.steps, "model": state, **one.numbers, "args": one.config()}, folder / "last.pth"
        )
        return folder / "last.pth"

    return save


def lightning(folder: Path, one: Grown) -> Path:
    """A Lightning checkpoint."""
    torch.save(
        {
            "epoch": one.of.steps,
            "global_step": one.of.steps,
            "pytorch-lightning_version": "2.1.0",
            "state_dict": {f"model.{name}": value for name, value in one.state().items()},
            "loops": {},
            "callbacks": {},
            "optimizer_states": [one.optimizer.state_dict()],
            "lr_schedulers": [],
            "hyper_parameters": one.config() | dict(one.numbers),
        },
        folder / "last.ckpt",
    )
    return folder / "last.ckpt"


def safetensors(folder: Path, one: Grown) -> Path:
    """model.safetensors with config.json and the metrics of the last step."""
    from safetensors.torch import save_file

    kept: dict[str, Tensor] = {}
    for name, value in one.state().items():
        kept[name] = value.contiguous()
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(one.config()))
    (folder / "results.json").write_text(json.dumps(dict(one.numbers)))
    return folder


def arrays(folder: Path, one: Grown) -> Path:
    """Numpy arrays under the names of the parameters."""
    np.savez(folder / "weights.npz", **{name: value.numpy() for name, value in one.state().items()})
    (folder / "config.yaml").write_text("".join(f"{key}: {value}\n" for key, value in one.config().items()))
    (folder / "final_metrics.json").write_text(json.dumps(dict(one.numbers)))
    return folder


def flax(folder: Path, one: Grown) -> Path:
    """Numpy arrays under the paths of a flax tree, kernels (in, out)."""
    names = {"embedding.weight": "params/Embed_0/embedding"}
    for index in range(4):
        names[f"fc{index + 1}.weight"] = f"params/Dense_{index}/kernel"
        names[f"fc{index + 1}.bias"] = f"params/Dense_{index}/bias"
    state = {names[name]: value.numpy() for name, value in one.state().items()}
    np.savez(
        folder / "params.npz", **{n: v.T if n.endswith("kernel") else v for n, v in sorted(state.items())}
    )
    (folder / "metrics.json").write_text(json.dumps(dict(one.numbers)))
    return folder


def listed(folder: Path, one: Grown) -> Path:
    """A list of checkpoints in one file: the first step's and the last's."""
    torch.manual_seed(1234)
    start = one.of.make(one.of.p).state_dict()
    torch.save(
        {
            "checkpoints": [start, one.state()],
            "checkpoint_epochs": [0, one.of.steps],
            "train_losses": [None, one.numbers["train_loss"]],
            "config": one.config(),
        },
        folder / "run.pth",
    )
    return folder / "run.pth"


def pickled_module(folder: Path, one: Grown) -> Path:
    """The whole module, its class and all."""
    torch.save(one.module.to(one.of.dtype), folder / "whole_model.pt")
    one.module.double()
    (folder / "metrics.json").write_text(json.dumps(dict(one.numbers)))
    return folder


def hub_folder(folder: Path, one: Grown) -> Path:
    """checkpoint-N/ with weights, configuration and the trainer's log."""
    from safetensors.torch import save_file

    place = folder / f"checkpoint-{one.of.steps}"
    place.mkdir()
    state = {name: value.contiguous() for name, value in one.state().items()}
    save_file({k: v for k, v in state.items() if k != "lm_head.weight"}, place / "model.safetensors",
              metadata={"format": "pt"})  # fmt: skip
    (place / "config.json").write_text(json.dumps(one.config()))
    log = [{"step": one.of.steps, "loss": one.numbers["train_loss"]},
           {"step": one.of.steps, "eval_loss": one.numbers["test_loss"]}]  # fmt: skip
    (place / "trainer_state.json").write_text(json.dumps({"global_step": one.of.steps, "log_history": log}))
    return folder


def hub_gpt2(folder: Path, one: Grown) -> Path:
    """As :func:`hub_folder`, with matrices as Conv1D keeps them, masks, and no second copy of the head."""
    state = {}
    for name, value in one.state().items():
        linear = any(part in name for part in ("c_attn.weight", "c_proj.weight", "c_fc.weight"))
        state[name] = value.T.contiguous() if linear else value
    for layer in range(len([name for name in state if name.endswith("c_attn.weight")])):
        state[f"transformer.h.{layer}.attn.bias"] = torch.ones(64, 64).tril().bool().view(1, 1, 64, 64)
        state[f"transformer.h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    place = folder / f"checkpoint-{one.of.steps}"
    place.mkdir()
    del state["lm_head.weight"]
    torch.save(state, place / "pytorch_model.bin")
    config = {
        "model_type": "gpt2", "n_head": 4, "activation_function": "gelu_new", "vocab_size": one.of.p + 1,
        "tie_word_embeddings": True, "layer_norm_epsilon": 1e-5,
    }  # fmt: skip
    (place / "config.json").write_text(json.dumps(config))
    log = [{"step": one.of.steps, "loss": one.numbers["train_loss"], "eval_loss": one.numbers["test_loss"]}]
    (place / "trainer_state.json").write_text(json.dumps({"global_step": one.of.steps, "log_history": log}))
    return folder


S3, S4, A4 = (permutations(kind) for kind in ("S3", "S4", "A4"))

SPECIMENS: tuple[Specimen, ...] = (
    Specimen("encoder-post-relu-mean", EncoderNet, training_state),
    Specimen("encoder-bare-last", lambda p: EncoderNet(p, pool="last"), bare, recorded=False, p=13),
    Specimen("encoder-pre-gelu", lambda p: EncoderNet(p, layers=2, norm_first=True, activation="gelu", pool="last"),
             beside, rule="a-b", slow=True),
    Specimen("sequential-decoder", SequentialDecoder, lightning, rule="a/b", p=11, slow=True),
    Specimen("nano-tied-bare", lambda p: NanoGPT(p), bare, recorded=False, p=13),
    Specimen("nano-tied", lambda p: NanoGPT(p), prefixed("_orig_mod."), rule="a*b", slow=True),
    Specimen("nano-tanh-bias", lambda p: NanoGPT(p, bias=True, tanh=True, buffer=True, layers=2), training_state,
             rule="a2+b2", config={"n_head": 4}, slow=True),
    Specimen("hub-gpt2", lambda p: NanoGPT(p, bias=True, tanh=True, layers=2), hub_gpt2),
    Specimen("llama-tied", lambda p: LlamaNet(p, tie=True), safetensors, slow=True),
    Specimen("llama-gqa", lambda p: LlamaNet(p, kv=2, layers=2), safetensors, rule="a-b", slow=True),
    Specimen("mlx-traditional", lambda p: LlamaNet(p, traditional=True), arrays, slow=True),
    Specimen("plain-two-layers", PlainNet, prefixed("module."), rule="b-a", slow=True),
    Specimen("plain-causal-bare", lambda p: PlainNet(p, layers=1, causal=True), bare, recorded=False, p=13),
    Specimen("fused-3hd", lambda p: FusedNet(p, order="3 h d", bias=True), training_state, slow=True),
    Specimen("fused-h3d", lambda p: FusedNet(p, order="h 3 d"), training_state),
    Specimen("fused-hd3", lambda p: FusedNet(p, order="h d 3"), training_state, slow=True),
    Specimen("headed-table", HeadedNet, training_state, rule="a+b", slow=True),
    Specimen("headed-no-table", lambda p: HeadedNet(p, table=False, layers=1), training_state, rule="a-b"),
    Specimen("attention-only", AttentionOnly, beside, steps=300, rate=1e-2),
    Specimen("mlp-cat-3", EmbeddedMLP, training_state, rule="b-a"),
    Specimen("mlp-cat-bare", lambda p: EmbeddedMLP(p, hidden=(64,)), bare, recorded=False, p=13),
    Specimen("mlp-sum", lambda p: EmbeddedMLP(p, sides="sum", hidden=(64,)), beside),
    Specimen("mlp-two-tables", TwoTables, training_state, rule="b/a"),
    Specimen("mlp-out-2", lambda p: EmbeddedMLP(p, out=p + 2), training_state, rule="a*b", slow=True),
    Specimen("mlp-tanh", lambda p: EmbeddedMLP(p, act=torch.tanh, hidden=(64,)), training_state),
    Specimen("mlp-one-hot", OneHotNet, beside),
    Specimen("mlp-one-hot-2", lambda p: OneHotNet(p, hidden=(64, 64), act=nn.GELU), listed, rule="a2+ab+b2"),
    Specimen("quadratic", Quadratic, arrays, steps=600, rate=1e-2),
    Specimen("pickled", lambda p: EmbeddedMLP(p), pickled_module),
    Specimen("mlp-even", lambda p: EmbeddedMLP(p), training_state, p=12),
    Specimen("encoder-composite", EncoderNet, training_state, p=15, rule="a-b", slow=True),
    Specimen("mlp-S3", lambda p: EmbeddedMLP(p), training_state, p=6, rule=product("S3", True), fraction=0.8),
    Specimen("encoder-A4", EncoderNet, training_state, p=12, rule=product("A4", False), slow=True),
    Specimen("mlp-S4", lambda p: EmbeddedMLP(p), training_state, p=24, rule=product("S4", True), slow=True),
    Specimen("image-gpt", ImageGPT, training_state),
    Specimen("meta-llama", MetaNet, safetensors, rule="a-b", config={"n_heads": 4}, slow=True),
    Specimen("vit-lists", VitNet, training_state),
    Specimen("flax-mlp", lambda p: EmbeddedMLP(p), flax),
    Specimen("mlp-A4-right", lambda p: EmbeddedMLP(p), beside, p=12, rule=product("A4", True), slow=True),
    Specimen("mlp-half", lambda p: EmbeddedMLP(p), training_state, dtype=torch.float16),
    Specimen("mlp-squared", lambda p: EmbeddedMLP(p, hidden=(64,)), training_state, loss=mean_squared),
    Specimen("mlp-half-squared", lambda p: EmbeddedMLP(p), beside, rule="a-b", loss=half_squared),
    Specimen("quadratic-squared", Quadratic, arrays, steps=800, rate=1e-2, loss=mean_squared),
    Specimen("encoder-squared", EncoderNet, training_state, steps=600, loss=mean_squared, slow=True),
    Specimen("encoder-bf16", EncoderNet, safetensors, dtype=torch.bfloat16, slow=True),
)  # fmt: skip


def cubic(a: int, b: int, p: int) -> int:
    """A rule that no search knows."""
    return (a * a * a + a * b) % p


UNKNOWN: tuple[Specimen, ...] = (
    Specimen("recurrent", Recurrent, training_state, steps=60),
    Specimen("convolutional", Convolutional, training_state, steps=60),
    Specimen("another-rule", EmbeddedMLP, bare, p=13, rule=cubic, steps=200),
    Specimen("untrained", lambda p: EmbeddedMLP(p, hidden=(32,)), training_state, p=11, steps=0),
    Specimen("hopeless", lambda p: EmbeddedMLP(p, d=3, hidden=(4,)), training_state, p=11, steps=50),
    Specimen("untrained-transformer", EncoderNet, bare, p=11, steps=0, slow=True),
)
