"""From a stranger's tensors to the parameters of our models: what transformers and chains have in common."""

from __future__ import annotations

import torch
from torch import Tensor

from grokscope.models import Params

_ROWS = ("embed.W_E",)
_COLUMNS = ("unembed.W_U", "unembed.b_U", "head.W_U", "head.b_U")


def stored(tensor: Tensor) -> Tensor:
    """float64 stays; anything narrower widens to float32 without loss."""
    return tensor.contiguous() if tensor.dtype == torch.float64 else tensor.to(torch.float32).contiguous()


def turned(params: Params, first: int) -> Params:
    """The parameters with the head's first logits behind the others, where logits before the residues count.

    Of a tied head they are the first rows of the embedding. Classes are then the residues, which start at
    ``first``, and all other logits after them.
    """
    if not first:
        return params
    has_head = any(name in params for name in _COLUMNS)
    found = dict(params)
    for name in _COLUMNS if has_head else _ROWS:
        if name in params:
            found[name] = params[name].roll(-first, dims=-1 if has_head else 0).contiguous()
    return found
