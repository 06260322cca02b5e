"""A shop's own wishes about a list: lift these items, sink those, this one at a place, a promotion in a slot.

Rules act on the order that the ranker gave, after its scores, which stay as they are. What a rule
moved is named with the item, and logged with the list: whoever evaluates clicks can leave it out.
Shapes: N items of the catalogue, n candidates.
"""

from collections.abc import Callable, Sequence

import numpy as np

from recsys.data_schemas.api import Boost, Bury, Pin, Rule, Slot
from recsys.features.catalogue import Catalogue
from recsys.features.draws import Doubles
from recsys.features.interactions import Bools, Ints, Longs
from recsys.features.protocols import Mask
from recsys.filters import allowed_by


class ListRules:
    """The rules of one list.

    Args:
        catalogue: for what the rules name.
        rules: in the order in which they were given; of two for one place the first holds.

    Raises:
        UsageError: a filter of a rule is wrong; see `filters.parse`.
    """

    def __init__(self, catalogue: Catalogue, rules: Sequence[Rule]) -> None:
        self._catalogue = catalogue
        self._moves: list[tuple[str, float, Bools]] = []
        """(name, standard deviations up, of which items); minus infinity sinks."""
        self._placed: list[tuple[str, int, Bools]] = []
        """(name, place from 0, one of which items)."""
        for n, rule in enumerate(rules):
            where = f"rules[{n}]"
            if isinstance(rule, Pin):
                only = self._only([rule.item_id])
                self._placed.append((rule.name, int(rule.place) - 1, only))
                continue
            chosen = self._chosen(rule, where)
            if isinstance(rule, Slot):
                self._placed += [(rule.name, int(at) - 1, chosen) for at in rule.places]
            else:
                up = -np.inf if isinstance(rule, Bury) else float(rule.by)
                self._moves.append((rule.name, up, chosen))

    def _chosen(self, rule: Boost | Bury | Slot, where: str) -> Bools:
        """bool[N]: what a rule is about: the named items that meet its filters, or all that do."""
        met = allowed_by(self._catalogue, rule.filters, f"{where}.filters")
        return met & self._only(rule.items) if rule.items else met

    def _only(self, item_ids: Sequence[str]) -> Bools:
        named = np.zeros(self._catalogue.n_items, bool)
        found = self._catalogue.indices_of(list(item_ids))
        named[found[found >= 0]] = True
        return named

    def further(self, recall: Callable[[Mask], Ints], blocked: Mask) -> Ints:
        """int32[m] items that must stand to choice beside the candidates: for each place the best that
        recall finds of its rule, and of what recall does not find, the first of the catalogue.

        Args:
            recall: items that are not blocked by a mask, best first.
            blocked: uint8[N], 1 for items that may not be listed.
        """
        found: list[Ints] = []
        for matched, places in self._by_rule():
            free = matched & (blocked[: len(matched)] == 0)
            if not free.any():
                continue
            rest = np.flatnonzero(free).astype(np.int32)
            masked = blocked.copy()
            masked[: len(free)][~free] = 1
            best = recall(masked)[:places] if len(rest) > places else rest
            found += [best, rest[~np.isin(rest, best)][: places - len(best)]]
        return np.concatenate([np.empty(0, np.int32), *found]).astype(np.int32)

    def _by_rule(self) -> list[tuple[Bools, int]]:
        """(of which items, how many places) of each rule that has places."""
        counted: dict[int, tuple[Bools, int]] = {}
        for _, _, matched in self._placed:
            _, places = counted.get(id(matched), (matched, 0))
            counted[id(matched)] = matched, places + 1
        return list(counted.values())

    def moved(self, items: Ints, score: Doubles) -> Doubles:
        """float64[n] by which the candidates are put in order: the scores, lifted and sunk."""
        spread = float(score.std()) if len(score) else 0.0
        by = score.copy()
        sunk = np.zeros(len(items), bool)
        for _, up, matched in self._moves:
            hit = matched[items]
            if np.isneginf(up):
                sunk |= hit
            else:
                by[hit] += up * (spread or 1.0)
        if sunk.any():
            by[sunk] -= 2.0 * float(np.ptp(by)) + 1.0
        return by

    def placed(self, items: Ints, order: Longs, by: Doubles, k: int) -> tuple[Longs, list[str]]:
        """(rows of the list int64[≤ k], the rule that moved each, or "").

        Args:
            items: int32[n] the candidates.
            order: int64[≤ k] rows as they would stand without places.
            by: float64[n] what `moved` gave.
            k: items wanted.
        """
        at: dict[int, tuple[int, str]] = {}
        taken: set[int] = set()
        for name, place, matched in self._placed:
            rows = np.flatnonzero(matched[items])
            rows = rows[~np.isin(rows, list(taken))]
            if place in at or place >= k or not len(rows):
                continue
            row = int(rows[np.argmax(by[rows])])
            at[place] = row, name
            taken.add(row)
        rest = [(int(row), self._mover(items[row])) for row in order if int(row) not in taken]
        listed: list[tuple[int, str]] = []
        # A list that is too short for a place has the item at its end.
        for place in range(min(k, len(rest) + len(at))):
            due = at.pop(place, None)
            if due is None and rest:
                due = rest.pop(0)
            listed.append(due if due is not None else at.pop(min(at)))
        return np.array([row for row, _ in listed], np.int64), [name for _, name in listed]

    def _mover(self, item: int) -> str:
        return next((name for name, _, matched in self._moves if matched[item]), "")
