"""Groups of permutations: the product of two elements, from all pairs of them.

Scope: the symmetric groups S_n, the alternating groups A_n and the dihedral groups D_n as permutations of
points 0 … m − 1, or any closed set of permutations given explicitly. An element is the tuple of the images of
its points; its index is its place in the list of elements.

Shape legend: n elements of the group, m points, N = n² pairs.
"""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from grokscope.errors import Absent, GrokscopeError
from grokscope.tasks.task import Levels, Symmetry, Task, random_split

MOST_ELEMENTS = 720
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,31}")
_FAMILY = re.compile(r"([SAD])([0-9]{1,3})")
_LEAST = {"S": 2, "A": 3, "D": 3}
_MOST = {"S": 6, "A": 6, "D": MOST_ELEMENTS // 2}
KNOWN = "S2 to S6, A3 to A6 or D3 to D360"

Elements = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class GroupSettings:
    """``[task]`` of a recipe: the product in a group of permutations.

    ``group`` is S2 … S6, A3 … A6 or D3 … D360 (of order 6 … 720). ``order`` says how the elements are
    numbered: *lexicographic* by their images, or *as given* in ``elements``; with elements given, ``group``
    may be any name. ``composition`` *left*: the answer to (a, b) is a∘b, which applies b first; *right*:
    a is applied first. ``split_seed`` is the seed of the split where it differs from the run's.
    """

    name: Literal["group"] = "group"
    group: str = "S5"
    order: Literal["lexicographic", "as given"] = "lexicographic"
    composition: Literal["left", "right"] = "left"
    elements: Elements = ()
    train_fraction: float = 0.4
    split_seed: int | None = None


def family_of(group: str) -> tuple[str, int] | None:
    """``("S", 5)`` of ``"S5"``; ``None`` where the name is none of the known groups."""
    match = _FAMILY.fullmatch(group)
    if match is None:
        return None
    letter, size = match[1], int(match[2])
    return (letter, size) if _LEAST[letter] <= size <= _MOST[letter] else None


def order_of(group: str) -> int | None:
    """How many elements a known group has; ``None`` for any other name."""
    family = family_of(group)
    if family is None:
        return None
    letter, size = family
    return {"S": math.factorial(size), "A": math.factorial(size) // 2, "D": 2 * size}[letter]


def is_even(element: tuple[int, ...]) -> bool:
    """Whether a permutation is a product of an even number of exchanges."""
    return sum(x > y for x, y in itertools.combinations(element, 2)) % 2 == 0


def lexicographic_elements(group: str) -> Elements:
    """The elements of a known group, ordered by their images.

    Raises:
        GrokscopeError: a name that is none of the known groups.
    """
    family = family_of(group)
    if family is None:
        raise GrokscopeError(f"building a group task: task.group is {group!r}, expected {KNOWN}")
    letter, size = family
    if letter == "D":
        turns = [tuple((start + k) % size for k in range(size)) for start in range(size)]
        flips = [tuple((start - k) % size for k in range(size)) for start in range(size)]
        return tuple(sorted(turns + flips))
    every = itertools.permutations(range(size))
    return tuple(every) if letter == "S" else tuple(one for one in every if is_even(one))


def group_elements(settings: GroupSettings) -> Elements:
    """The elements in the order of ``settings``: element k is the one with index k.

    Raises:
        GrokscopeError: an unknown group; elements that are missing, that come with an order which does not
            use them, that are no permutations or not distinct, or that are not those of the named group.
    """
    about = f"building the group task {settings.group!r}"
    if settings.order == "lexicographic":
        if settings.elements:
            raise GrokscopeError(
                f"{about}: task.elements are given, expected task.order = 'as given' with it"
            )
        return lexicographic_elements(settings.group)
    given = settings.elements
    if not _NAME.fullmatch(settings.group):
        raise GrokscopeError(f"{about}: expected a name of letters and digits in task.group")
    if not 2 <= len(given) <= MOST_ELEMENTS:
        raise GrokscopeError(
            f"{about}: task.elements holds {len(given)} permutations, expected 2 to {MOST_ELEMENTS} "
            "with task.order = 'as given'"
        )
    points = set(range(len(given[0])))
    for element in given:
        if set(element) != points or len(element) != len(points):
            raise GrokscopeError(
                f"{about}: task.elements holds {list(element)[:12]}, expected permutations of the points "
                f"0 to {len(points) - 1}"
            )
    if len(set(given)) != len(given):
        raise GrokscopeError(f"{about}: task.elements holds a permutation twice, expected each once")
    if family_of(settings.group) and set(given) != set(lexicographic_elements(settings.group)):
        raise GrokscopeError(
            f"{about}: task.elements are {len(given)} permutations of {len(points)} points that are not the "
            f"elements of {settings.group}, expected those in any order, or another name in task.group"
        )
    return given


def cayley_table(settings: GroupSettings) -> Tensor:
    """(n, n) int64: row a, column b hold the index of the product of elements a and b.

    Raises:
        GrokscopeError: as :func:`group_elements`; or given elements whose products are not among them.
    """
    table = product_table(group_elements(settings), trusted=family_of(settings.group) is not None)
    if table is None:
        raise GrokscopeError(
            f"building the group task {settings.group!r}: a product of two of task.elements is not among "
            "them, expected all elements of a group"
        )
    return table if settings.composition == "left" else table.T.contiguous()


def product_table(listed: Elements, *, trusted: bool) -> Tensor | None:
    """(n, n) int64 of the distinct permutations ``listed``: the index of x∘y, y applied first.

    ``None`` where a product is not among the elements, which is not checked where they are ``trusted``
    to be a group.
    """
    elements = torch.tensor(listed)
    n, points = elements.shape
    # a few points whose images tell the elements apart are enough to name a product
    base: list[int] = []
    codes = torch.zeros(n, dtype=torch.int64)
    for point in range(points):
        finer = codes * points + elements[:, point]
        if len(finer.unique()) > len(codes.unique()):
            base.append(point)
            # small numbers again, so that many points do not overflow
            codes = torch.unique(finer, return_inverse=True)[1]
    if len(codes.unique()) < n:
        return None
    table = torch.zeros(n, n, dtype=torch.int64)
    known: Tensor = torch.zeros(n, dtype=torch.int64)
    for point in base:
        images = elements[:, elements[:, point]]
        finer_known = known * points + elements[:, point]
        finer = table * points + images
        values, known = torch.unique(finer_known, return_inverse=True)
        place = torch.searchsorted(values, finer).clamp(max=len(values) - 1)
        if not torch.equal(values[place], finer):
            return None
        table = place
    index = torch.empty(n, dtype=torch.int64)
    index[known] = torch.arange(n)
    table = index[table]
    # the images of the base say which element it would be; a group's product agrees at every point
    for point in () if trusted else range(points):
        if not torch.equal(elements[table, point], elements[:, elements[:, point]]):
            return None
    return table


def inverses_in(table: Tensor) -> Tensor:
    """(n,) int64: the index of each element's inverse, from the product table of a group."""
    n = len(table)
    identity = int((table == torch.arange(n)).all(dim=1).nonzero()[0])
    return (table == identity).to(torch.int64).argmax(dim=1)


def group_task(settings: GroupSettings, seed: int) -> Task:
    """The task of ``settings``, its split drawn from ``settings.split_seed`` or ``seed``.

    Inputs are all pairs of indices in the order a·n + b. Swapping the operands keeps the answer in
    commutative groups only; (b⁻¹, a⁻¹) always gives the inverse of the answer.

    Raises:
        GrokscopeError: as :func:`cayley_table`; or a fraction that leaves no training or no test pair.
    """
    table = cayley_table(settings)
    n = len(table)
    a, b = torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij")
    a, b = a.reshape(-1), b.reshape(-1)
    inverse = inverses_in(table)
    commutative = torch.equal(table, table.T)
    symmetries = [Symmetry("swap", b * n + a, True)] if commutative else []
    symmetries.append(Symmetry("(b⁻¹, a⁻¹)", inverse[b] * n + inverse[a], False, "y⁻¹"))
    split_seed = seed if settings.split_seed is None else settings.split_seed
    none = Absent(
        f"the elements of {settings.group} are not residues; irreducible representations take the place of "
        "frequencies"
    )
    first = "b" if settings.composition == "left" else "a"
    product = "a∘b" if settings.composition == "left" else "b∘a"
    return Task(
        name=f"product in {settings.group}",
        kind="classification",
        inputs=torch.stack([a, b], dim=1),
        targets=table.reshape(-1),
        train_mask=random_split(n * n, settings.train_fraction, split_seed),
        n_classes=n,
        n_tokens=n,
        chance=1 / n,
        levels=Levels("skill", fit=0.99, grok=0.95),
        symmetries=tuple(symmetries),
        token_axis=none,
        class_axis=none,
        swap=commutative,
        operation=settings.group,
        description=f"{product} in {settings.group}, {first} applied first",
    )
