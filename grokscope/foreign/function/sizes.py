"""The sizes of named axes, solved from the shapes of tensors whose axes have letters.

A composite axis such as ``(H k)`` gives a product; a literal number is the count of roles packed in a tensor.
Where a tensor's axes have several possible orders, those that no size contradicts stay; of two that both fit
(a square matrix) the first is taken and the tensor is named among the doubtful.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from grokscope.foreign.function.layout import Placed

Axis = tuple[str, ...]
"""Letters and numbers whose product is one axis."""


@dataclass(frozen=True)
class Solution:
    """``sizes`` of single letters, ``products`` of pairs such as ``"H k"``, the order chosen for each part.

    ``doubtful`` maps parts whose shape fits a second order to that order.
    """

    sizes: Mapping[str, int]
    products: Mapping[str, int]
    axes: Mapping[tuple[str, ...], str]
    doubtful: Mapping[tuple[str, ...], str]

    def transposed(self) -> Mapping[tuple[str, ...], str]:
        """The orders with every doubtful part in its second one."""
        return {**self.axes, **self.doubtful}


class Contradiction(Exception):
    """No assignment of sizes fits; the message says where."""


def parse_axes(text: str) -> tuple[Axis, ...]:
    """``"(3 H k) d"`` as (("3", "H", "k"), ("d",))."""
    return tuple(tuple(token.strip("()").split()) for token in re.findall(r"\([^)]*\)|\w+", text))


def shape_of(part: Placed, tensors: Mapping[str, Tensor]) -> tuple[int, ...]:
    """The shape of a part's tensor, with a leading axis of heads where there is one tensor a head."""
    first = tuple(tensors[part.names[0]].shape)
    return (
        first
        if len(part.names) == 1 and len(parse_axes(part.axes[0])) == len(first)
        else (len(part.names), *first)
    )


def solve(parts: Sequence[Placed], tensors: Mapping[str, Tensor]) -> Solution:
    """Sizes for all parts at once, of the width that the embedding allows.

    Raises:
        Contradiction: two tensors disagree, or a shape fits none of its orders.
    """
    table = next(part for part in parts if part.roles == ("embedding",))
    failure: Contradiction | None = None
    for axes in table.axes:
        letters, shape = parse_axes(axes), shape_of(table, tensors)
        try:
            return _solve(
                parts, tensors, {letter[0]: size for letter, size in zip(letters, shape, strict=True)}
            )
        except Contradiction as error:
            failure = failure or error
    assert failure is not None
    raise failure


def _solve(parts: Sequence[Placed], tensors: Mapping[str, Tensor], start: Mapping[str, int]) -> Solution:
    sizes, products = dict(start), dict[str, int]()
    open_parts = {part.names: list(part.axes) for part in parts}
    by_names = {part.names: part for part in parts}
    chosen: dict[tuple[str, ...], str] = {}
    doubtful: dict[tuple[str, ...], str] = {}
    while open_parts:
        settled = False
        for names, alternatives in list(open_parts.items()):
            shape = shape_of(by_names[names], tensors)
            fitting = [one for one in alternatives if _fits(parse_axes(one), shape, sizes, products)]
            if not fitting:
                listed = " or ".join(alternatives)
                raise Contradiction(
                    f"{names[0]} has shape {shape}, expected ({listed}) with {_told(sizes, products)}"
                )
            open_parts[names] = fitting
            if len(fitting) == 1:
                _learn(parse_axes(fitting[0]), shape, sizes, products)
                chosen[names] = fitting[0]
                del open_parts[names]
                settled = True
        if not settled and open_parts:
            # nothing decides: the order that other matrices of the file have, else the usual one for the name
            names = next(iter(open_parts))
            shape = shape_of(by_names[names], tensors)
            first, second = open_parts[names][:2]
            if _usual_place(by_names, chosen, doubtful) == by_names[names].axes.index(second) == 1:
                first, second = second, first
            chosen[names], doubtful[names] = first, second
            _learn(parse_axes(chosen[names]), shape, sizes, products)
            del open_parts[names]
    # what was learned last may still tell a doubtful order apart
    for names, other in list(doubtful.items()):
        shape = shape_of(by_names[names], tensors)
        if not _fits(parse_axes(other), shape, sizes, products):
            del doubtful[names]
    for product, size in list(products.items()):
        one, other = product.split()
        for known, wanted in ((one, other), (other, one)):
            if known in sizes and wanted not in sizes and size % sizes[known] == 0:
                sizes[wanted] = size // sizes[known]
    return Solution(sizes, products, chosen, doubtful)


def _usual_place(
    by_names: Mapping[tuple[str, ...], Placed],
    chosen: Mapping[tuple[str, ...], str],
    doubtful: Mapping[tuple[str, ...], str],
) -> int:
    """Which of two possible orders most matrices have whose shapes decide, 0 or 1."""
    places = [
        by_names[names].axes.index(order)
        for names, order in chosen.items()
        if names not in doubtful
        and len(by_names[names].axes) == 2
        and by_names[names].roles[0] not in ("embedding", "position", "head")
    ]
    return int(sum(places) > len(places) / 2)


def _fits(
    axes: tuple[Axis, ...], shape: tuple[int, ...], sizes: Mapping[str, int], products: Mapping[str, int]
) -> bool:
    if len(axes) != len(shape) or not all(shape):
        return False
    for letters, size in zip(axes, shape, strict=True):
        number = math.prod(int(one) for one in letters if one.isdigit())
        open_letters = [one for one in letters if not one.isdigit()]
        if size % number:
            return False
        left = size // number
        key = " ".join(open_letters)
        if len(open_letters) == 2 and key in products:
            if products[key] != left:
                return False
            continue
        for one in open_letters:
            if one in sizes:
                if left % sizes[one]:
                    return False
                left //= sizes[one]
        unknown = [one for one in open_letters if one not in sizes]
        if not unknown and left != 1:
            return False
    return True


def _learn(
    axes: tuple[Axis, ...], shape: tuple[int, ...], sizes: dict[str, int], products: dict[str, int]
) -> None:
    for letters, size in zip(axes, shape, strict=True):
        number = math.prod(int(one) for one in letters if one.isdigit())
        open_letters = [one for one in letters if not one.isdigit()]
        left = size // number
        if len(open_letters) == 2:
            products[" ".join(open_letters)] = left
        if len(open_letters) == 1:
            sizes.setdefault(open_letters[0], left)


def _told(sizes: Mapping[str, int], products: Mapping[str, int]) -> str:
    known = [f"{letter} = {size}" for letter, size in sorted(sizes.items())]
    return ", ".join(known + [f"({letters}) = {size}" for letters, size in sorted(products.items())])
