"""Which group a table of answers belongs to, and how its elements are numbered.

Scope: the answers of a network to all pairs of a group's elements, some of them possibly wrong. The orders in
which programs usually list permutations are tried first. Where none fits, wrong entries are outvoted by what
associativity says about them, and an isomorphism to a known group is built from its generators.

Every group is its own opposite up to inversion: left composition of the elements e_k and right composition of
their inverses are one table. Which of the two was meant shows only beside an order of listing.

Shape legend: n elements, K candidate images of the generators, V votes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from grokscope.tasks.groups import (
    MOST_ELEMENTS,
    Elements,
    GroupSettings,
    cayley_table,
    family_of,
    is_even,
    lexicographic_elements,
    order_of,
    product_table,
)

LEAST_AGREEMENT = 0.5
"""Share of answers that a group must explain where its numbering had to be inferred from them."""

LEAST_NATURAL_AGREEMENT = 0.3
"""The same for the usual orders of listing, which leave nothing to infer; a memorising network suffices."""

VOTES = 25
CLEAR_MARGIN = 0.2
"""Share of answers by which the best order of elements leads where neither criterion of ratios holds."""

ROUNDS = 4
CANDIDATES = 4096
SAMPLED = 20000
LEXICOGRAPHIC = "lexicographic order"


@dataclass(frozen=True)
class GroupFit:
    """A group that explains a table: ``agreement`` is the share of entries, ``method`` how it was found."""

    settings: GroupSettings
    agreement: float
    method: str


def identify_group(table: Tensor) -> GroupFit | None:
    """The known group whose product ``table`` is, with its elements in the table's own numbering.

    Args:
        table: (n, n) whole numbers: row a, column b hold the answer to (a, b). Some may be wrong.

    Returns:
        The fit, or ``None`` where no group of order n among S3 … S6, A4 … A6, D3 … D360 explains the
        table. Cyclic groups are modular addition and not looked for here.

    Raises:
        ValueError: a table that is not square or does not hold whole numbers.
    """
    if table.ndim != 2 or table.shape[0] != table.shape[1] or table.is_floating_point():
        raise ValueError(f"table has shape {tuple(table.shape)} and {table.dtype}, expected (n, n) integers")
    n = len(table)
    groups = groups_of_order(n)
    if not groups:
        return None
    table = table.to(torch.int64)
    natural = _natural_fit(table, groups)
    if natural is not None and natural.agreement >= LEAST_AGREEMENT:
        return natural
    clean = _outvoted(table)
    if clean is not None:
        for group in groups:
            found = _isomorphic_elements(clean, group)
            if found is None:
                continue
            settings = GroupSettings(group=group, order="as given", elements=found)
            agreement = _agreement(table, cayley_table(settings))
            if agreement >= LEAST_AGREEMENT:
                method = (
                    "an isomorphism found from generators, up to renaming the points; left composition by "
                    "convention, right composition of the inverses is the same table"
                )
                return GroupFit(settings, agreement, method)
    return natural


def groups_of_order(n: int) -> tuple[str, ...]:
    """The known groups of n elements that are not cyclic, one name for each."""
    names = [f"{letter}{size}" for letter in "SA" for size in range(3, 7)]
    names += [f"D{n // 2}"] if n % 2 == 0 and n <= MOST_ELEMENTS else []
    # A3 is cyclic, and D3 is S3 with its points named
    return tuple(name for name in names if order_of(name) == n and name not in ("A3", "D3"))


def natural_orders(group: str) -> Iterator[tuple[str, Elements]]:
    """The orders in which programs list the elements of a known group, each with its name."""
    family = family_of(group)
    if family is None:
        return
    letter, size = family
    first = lexicographic_elements(group)
    yield LEXICOGRAPHIC, first
    if letter == "D":
        turns = tuple(tuple((k + turn) % size for k in range(size)) for turn in range(size))
        turned = tuple(tuple((turn - k) % size for k in range(size)) for turn in range(size))
        flipped = (turned[0], *turned[:0:-1])
        pairs = zip(turns, turned, strict=True)
        yield "the order of rotations r^k, then r^k s", turns + turned
        yield "the order of rotations r^k, then s r^k", turns + flipped
        yield "the order r^0, s, r, r s, …", tuple(one for pair in pairs for one in pair)
    else:
        even = lambda listed: tuple(one for one in listed if letter == "S" or is_even(one))  # noqa: E731
        yield "reverse lexicographic order", first[::-1]
        yield "colexicographic order", tuple(sorted(first, key=lambda one: one[::-1]))
        yield "reverse colexicographic order", tuple(sorted(first, key=lambda one: one[::-1]))[::-1]
        yield "Steinhaus–Johnson–Trotter order", even(_adjacent_exchanges(size))
        yield "the order of Heap's algorithm", even(_heap(size))
        if letter == "S":
            yield (
                "the order of even, then odd permutations",
                tuple(sorted(first, key=lambda e: not is_even(e))),
            )
            odd_first = tuple(sorted(first, key=is_even))
            yield "the order of odd, then even permutations", odd_first
    yield from _orders_of_sympy(letter, size, set(first))


def _adjacent_exchanges(size: int) -> list[tuple[int, ...]]:
    """Every permutation, each from the last by exchanging two neighbours, the largest moving first."""
    if size == 1:
        return [(0,)]
    found = []
    for index, shorter in enumerate(_adjacent_exchanges(size - 1)):
        places = range(size - 1, -1, -1) if index % 2 == 0 else range(size)
        found += [(*shorter[:place], size - 1, *shorter[place:]) for place in places]
    return found


def _heap(size: int) -> list[tuple[int, ...]]:
    """Every permutation in the order of B. R. Heap (1963), each from the last by one exchange."""
    items, found = list(range(size)), []

    def permute(length: int) -> None:
        if length == 1:
            found.append(tuple(items))
            return
        for index in range(length):
            permute(length - 1)
            if index < length - 1:
                other = index if length % 2 == 0 else 0
                items[other], items[length - 1] = items[length - 1], items[other]

    permute(size)
    return found


def _orders_of_sympy(
    letter: str, size: int, expected: set[tuple[int, ...]]
) -> Iterator[tuple[str, Elements]]:
    """The orders in which sympy generates the group; it comes with torch and is slow to load."""
    try:
        from sympy.combinatorics import named_groups
    except ImportError:
        return
    makers = {"S": "SymmetricGroup", "A": "AlternatingGroup", "D": "DihedralGroup"}
    for method in ("coset", "dimino"):
        group = getattr(named_groups, makers[letter])(size)
        listed = tuple(tuple(one.array_form) for one in group.generate(method=method))
        if set(listed) == expected and len(listed) == len(expected):
            yield f"sympy's order ({method})", listed


def _agreement(table: Tensor, expected: Tensor) -> float:
    return float((table == expected).to(torch.float64).mean())


def _natural_fit(table: Tensor, groups: tuple[str, ...]) -> GroupFit | None:
    """The usual order that explains most, where it explains enough and clearly more than any other."""
    n = len(table)
    generator = torch.Generator().manual_seed(0)
    some_a, some_b = torch.randint(n, (2, SAMPLED), generator=generator)
    answers = table[some_a, some_b]
    fits: list[tuple[float, Tensor, GroupSettings, str]] = []
    for group in groups:
        lexicographic = lexicographic_elements(group)
        place = {element: index for index, element in enumerate(lexicographic)}
        known = product_table(lexicographic, trusted=True)
        assert known is not None
        for order, elements in natural_orders(group):
            listed = torch.tensor([place[element] for element in elements])
            numbered = listed.argsort()
            for composition in ("left", "right"):
                product = known if composition == "left" else known.T
                expected = numbered[product[listed[some_a], listed[some_b]]]
                share = float((answers == expected).to(torch.float64).mean())
                settings = GroupSettings(group=group, composition=composition)
                if order != LEXICOGRAPHIC:
                    settings = replace(settings, order="as given", elements=elements)
                first = "b" if composition == "left" else "a"
                fits.append((share, expected, settings, f"{order}, {first} applied first"))
    share, expected, settings, method = max(fits, key=lambda fit: fit[0])
    # two listings of one table are no rivals
    rival = max((fit[0] for fit in fits if not torch.equal(fit[1], expected)), default=0.0)
    # left and right agree where elements commute, which is half of a small group
    clear = share >= 2 * rival or 1 - share <= (1 - rival) / 2 or share - rival >= CLEAR_MARGIN
    if share < LEAST_NATURAL_AGREEMENT or not clear:
        return None
    agreement = _agreement(table, cayley_table(settings))
    return GroupFit(settings, agreement, method) if agreement >= LEAST_NATURAL_AGREEMENT else None


def _is_latin(table: Tensor) -> bool:
    n = len(table)
    whole = torch.arange(n).expand(n, n)
    return torch.equal(table.sort(dim=1).values, whole) and torch.equal(table.T.sort(dim=1).values, whole)


def _outvoted(table: Tensor) -> Tensor | None:
    """The table with every entry put to the vote of (a·c)·(c\\b) over many c; ``None`` if never Latin.

    c\\b is the element whose product with c is b. In a group all these are a·b; a wrong entry spoils few
    of them, and the spoilt ones do not agree with each other.
    """
    n = len(table)
    inside = (table >= 0) & (table < n)
    table = torch.where(inside, table, torch.full_like(table, -1))
    generator = torch.Generator().manual_seed(0)
    for _ in range(ROUNDS):
        if _is_latin(table):
            return table
        divided = torch.full((n, n + 1), -1)
        divided.scatter_(1, torch.where(table >= 0, table, n), torch.arange(n).expand(n, n).contiguous())
        votes = [table.reshape(-1)]
        for c in torch.randperm(n, generator=generator)[:VOTES].tolist():
            left, right = table[:, c, None], divided[None, c, :n]
            vote = table[left.clamp(min=0), right.clamp(min=0)]
            votes.append(torch.where((left >= 0) & (right >= 0), vote, -1).reshape(-1))
        # distinct negative numbers, so that unknowns do not vote together
        stacked = torch.stack(votes, dim=1)
        stacked = torch.where(stacked < 0, -1 - torch.arange(stacked.shape[1]), stacked)
        chosen, most = stacked[:, 0].clone(), torch.zeros(n * n, dtype=torch.int64)
        for column in stacked.T:
            count = (stacked == column[:, None]).sum(dim=1)
            better = count > most
            chosen[better], most[better] = column[better], count[better]
        if float((most >= 3).to(torch.float64).mean()) < LEAST_NATURAL_AGREEMENT:
            return None
        table = torch.where(chosen >= 0, chosen, torch.full_like(chosen, -1)).reshape(n, n)
    return table if _is_latin(table) else None


def _element_orders(table: Tensor) -> Tensor | None:
    """(n,) int64 orders of the elements, ``None`` where there is no identity or a power never reaches it."""
    n = len(table)
    index = torch.arange(n)
    rows = (table == index).all(dim=1) & (table == index[:, None]).all(dim=0)
    if int(rows.sum()) != 1:
        return None
    identity = int(rows.nonzero()[0])
    orders, power = torch.zeros(n, dtype=torch.int64), index
    for exponent in range(1, n + 1):
        orders[(orders == 0) & (power == identity)] = exponent
        if bool((orders > 0).all()):
            return orders
        power = table[power, index]
    return None


def _generators(group: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Two permutations that generate the known group."""
    family = family_of(group)
    assert family is not None
    letter, size = family
    cycle = tuple((k + 1) % size for k in range(size))
    if letter == "D":
        return cycle, tuple(-k % size for k in range(size))
    if letter == "S":
        return (1, 0, *range(2, size)), cycle
    rest = cycle if size % 2 else (0, *range(2, size), 1)
    return (1, 2, 0, *range(3, size)), rest


def _isomorphic_elements(table: Tensor, group: str) -> Elements | None:
    """The elements of ``group`` in the numbering of the Latin square ``table``, where they are isomorphic."""
    elements = lexicographic_elements(group)
    known = product_table(elements, trusted=True)
    assert known is not None
    theirs, ours = _element_orders(table), _element_orders(known)
    if theirs is None or ours is None or not torch.equal(theirs.sort().values, ours.sort().values):
        return None
    x, y = (elements.index(one) for one in _generators(group))
    xy = int(known[x, y])
    first, second = (theirs == ours[x]).nonzero()[:, 0], (theirs == ours[y]).nonzero()[:, 0]
    pairs = torch.cartesian_prod(first, second)
    pairs = pairs[theirs[table[pairs[:, 0], pairs[:, 1]]] == ours[xy]]
    tree = _spanning_tree(known, (x, y))
    their_root = int((theirs == 1).nonzero()[0])
    n = len(table)
    for start in range(0, len(pairs), CANDIDATES):
        images = pairs[start : start + CANDIDATES]
        # (n, K): where each candidate sends each of our elements, word by word in the generators
        sent = torch.full((n, len(images)), their_root)
        for parent, generator, child in tree:
            sent[child] = table[sent[parent], images[:, generator]]
        onto = (sent.sort(dim=0).values == torch.arange(n)[:, None]).all(dim=0)
        for generator, element in enumerate((x, y)):
            onto &= (table[sent, images[:, generator]] == sent[known[:, element]]).all(dim=0)
        if bool(onto.any()):
            numbered = torch.empty(n, dtype=torch.int64)
            numbered[sent[:, int(onto.to(torch.int64).argmax())]] = torch.arange(n)
            return tuple(elements[k] for k in numbered.tolist())
    return None


def _spanning_tree(table: Tensor, generators: tuple[int, int]) -> list[tuple[int, int, int]]:
    """(parent, which generator, child) for every element but the identity: child = parent · generator.

    The identity is element 0, the first in lexicographic order.
    """
    rows = table[:, list(generators)].tolist()
    reached, frontier, found = {0}, [0], []
    for parent in frontier:
        for which, child in enumerate(rows[parent]):
            if child not in reached:
                reached.add(child)
                frontier.append(child)
                found.append((parent, which, child))
    return found
