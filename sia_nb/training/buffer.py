"""Which known solution to start from next: state reuse by PUCT (TTT-Discover, arXiv 2601.16175, section on state reuse).

    score(s) = Q(s) + c · scale · P(s) · √(1 + T) / (1 + n(s))

    Q      max(own value, best child's value). The published rule takes the best child alone once there is one, which
           abandons a good state after a few poor children.
    P      ∝ N − rank among the N states, the best having rank 0
    scale  highest − lowest value over the states that were found, not given
    T      rollouts so far, failures included; n(s) those from s or from a descendant of s

Of a group's children the best ``CHILDREN`` are kept, duplicates dropped, and of all states the best ``CAPACITY``.
Pure Python; the state is plain JSON.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

C, CHILDREN, CAPACITY = 1.0, 2, 1000


@dataclass
class State:
    """A solution that can be started from; the root, which has none, stands for starting from scratch."""

    solution: str  # "" for the root
    value: float
    parent: str | None = None  # its parent's solution; None for those given
    visits: int = 0  # n
    best_child: float | None = None  # value of the best child ever seen, kept or not

    @property
    def q(self) -> float:
        """max(own value, best child's value)."""
        return self.value if self.best_child is None else max(self.value, self.best_child)


class Buffer:
    """The states of one instance.

    Args:
        given: {"solution", "score"} dicts known at the start; the root (value 0) is always among the states.
    """

    def __init__(self, given: list[dict[str, Any]] | None = None):
        self.rollouts = 0  # T
        self.states: dict[str, State] = {"": State("", 0.0)}
        for one in given or []:
            self.states.setdefault(one["solution"], State(one["solution"], float(one["score"])))

    def scores(self) -> dict[str, float]:
        """The PUCT score of each state."""
        ranked = sorted(self.states.values(), key=lambda s: -s.value)
        found = [s.value for s in ranked if s.parent is not None]
        scale = max(found) - min(found) if len(set(found)) > 1 else 1.0
        count = len(ranked)
        total = count * (count + 1) / 2
        explore = C * scale * math.sqrt(1 + self.rollouts)
        return {s.solution: s.q + explore * (count - rank) / total / (1 + s.visits) for rank, s in enumerate(ranked)}

    def pick(self, n: int) -> list[State]:
        """The ``n`` states to start from: by score, none of the lineage of another; anew once all are taken or barred."""
        scores = self.scores()
        order = sorted(self.states, key=lambda s: -scores[s])
        picked: list[State] = []
        free = list(order)
        while len(picked) < n:
            if not free:
                free = list(order)
            best = free[0]
            picked.append(self.states[best])
            line = self._ancestors(best)
            free = [s for s in free if s != best and s not in line and best not in self._ancestors(s)]
        return picked

    def add(self, parent: str, children: list[dict[str, Any]], rollouts: int) -> None:
        """Take in what ``rollouts`` rollouts from ``parent`` gave: the valid ``children``, {"solution", "score"}."""
        self.rollouts += rollouts
        for solution in [parent, *self._ancestors(parent)]:
            if solution in self.states:
                self.states[solution].visits += rollouts
        fresh = {c["solution"]: float(c["score"]) for c in children if c["solution"] != parent}
        origin = self.states.get(parent)
        if origin is not None and fresh:
            best = max(fresh.values())
            origin.best_child = best if origin.best_child is None else max(origin.best_child, best)
        new = sorted((s for s in fresh if s not in self.states), key=lambda s: -fresh[s])
        for solution in new[:CHILDREN]:
            self.states[solution] = State(solution, fresh[solution], parent)
        if len(self.states) > CAPACITY:
            keep = sorted(self.states.values(), key=lambda s: (s.solution != "", s.parent is not None, -s.value))[:CAPACITY]
            self.states = {s.solution: s for s in keep}

    def _ancestors(self, solution: str) -> list[str]:
        line: list[str] = []
        while solution in self.states and (above := self.states[solution].parent) is not None:
            if above in line:  # a state that was dropped and found again below itself
                break
            line.append(above)
            solution = above
        return line

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {"rollouts": self.rollouts, "states": [asdict(s) for s in self.states.values()]}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Buffer:
        """The buffer that ``to_dict`` described."""
        buffer = cls()
        buffer.rollouts = data["rollouts"]
        buffer.states = {s["solution"]: State(**s) for s in data["states"]}
        return buffer
