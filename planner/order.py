"""Graphs: services in dependency order, and drafted operations as a numbered plan.

In come names with what they need; out come orders that depend on nothing but their input. networkx does the graph
work; it takes 100 ms to import, so it is imported when first used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from pystack.model.errors import InvalidInput
from pystack.model.plan import Operation, Plan, Step

if TYPE_CHECKING:
    from networkx import DiGraph


def _graph(needs: Mapping[str, Iterable[str]]) -> DiGraph[str]:
    from networkx import DiGraph

    graph: DiGraph[str] = DiGraph()
    graph.add_nodes_from(needs)
    graph.add_edges_from((need, key) for key, of_key in needs.items() for need in of_key if need in needs)
    return graph


def _sorted(needs: Mapping[str, Iterable[str]], what: str) -> list[str]:
    """Keys with what they need before them; among those that are free, in the mapping's order. Unknown needs are dropped."""
    from networkx import NetworkXUnfeasible, find_cycle, lexicographical_topological_sort

    graph = _graph(needs)
    rank = {key: index for index, key in enumerate(needs)}
    try:
        return list(lexicographical_topological_sort(graph, rank.__getitem__))
    except NetworkXUnfeasible:
        cycle = [edge[0] for edge in find_cycle(graph)]
        first = cycle.index(min(cycle))
        turned = [*cycle[first:], *cycle[:first], cycle[first]]
        raise InvalidInput(
            f"cannot order {what}: {' <- '.join(turned)} is a cycle", hint="take one dependency out"
        ) from None


def dependency_order(needs: Mapping[str, Iterable[str]]) -> list[str]:
    """Services, what they depend on first, otherwise by name. Raises InvalidInput naming a cycle."""
    return _sorted({key: needs[key] for key in sorted(needs)}, "the services")


class Draft:
    """A plan while it is drawn up: operations by key, each with the keys that must come first.

    A need that is never added is already met, and is dropped.
    """

    def __init__(self) -> None:
        self._operations: dict[str, Operation] = {}
        self._needs: dict[str, tuple[str, ...]] = {}
        self.warnings: list[str] = []

    def add(self, key: str, operation: Operation, needs: Iterable[str] = ()) -> str:
        """Add one operation; returns its key. The same key again is refused: every operation happens once."""
        assert key not in self._operations, key
        self._operations[key] = operation
        self._needs[key] = tuple(needs)
        return key

    def __contains__(self, key: str) -> bool:
        return key in self._operations

    def removals(self) -> list[str]:
        """Keys of the containers' removals so far."""
        return [key for key in self._operations if key.startswith("remove:")]

    def finish(self) -> Plan:
        """Number the steps and leave only the needs that no other need implies."""
        ordered = _sorted(self._needs, "the operations")
        rank = {key: index for index, key in enumerate(ordered)}
        steps = tuple(
            Step(
                id=rank[key] + 1,
                operation=self._operations[key],
                needs=tuple(sorted(number + 1 for number in needs)),
            )
            for key, needs in zip(ordered, _reduced(ordered, rank, self._needs), strict=True)
        )
        return Plan(steps=steps, warnings=tuple(self.warnings))


def _reduced(
    ordered: list[str], rank: Mapping[str, int], needs: Mapping[str, Iterable[str]]
) -> Iterable[list[int]]:
    """For each key in order, the ranks that it needs without those that another of them implies.

    Transitive reduction with ancestors as bits of an int: a tenth of the time of networkx's, which searches from every
    node. Going from the latest need down, a need is implied exactly if it is an ancestor of one that is kept.
    """
    ancestors: list[int] = []
    for key in ordered:
        covered = 0
        kept = []
        for number in sorted({rank[need] for need in needs[key] if need in rank}, reverse=True):
            if not covered >> number & 1:
                kept.append(number)
                covered |= ancestors[number] | 1 << number
        ancestors.append(covered)
        yield kept
