"""Instances of LawBench: subsets of the charges, each with a training set of its own size.

The lists of charges are frozen in instances.json, which ``propose`` derives from the train texts of split
seed 0 and nothing else; ``python -m sia_nb.tasks.lawbench.instances`` writes it anew. First the charges
are dealt into two piles, one for training a policy and one held out, so that no held-out instance shares a
charge with one of the others. Then each instance draws from its pile: *mixed* ones at random, *alike*
ones a random charge and those whose class means lie nearest to its own (see ``class_cosines``): charges
that a classifier easily confuses. Held-out instances share charges among themselves.

Imports no numpy at the top, so that descriptions can be had without it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from ..base import Instance
from .files import CLASSES, Layout, read_json

FILE = Path(__file__).with_name("instances.json")
WHOLE = Instance(
    "all191", "All 191 charges; at most 20 train texts for each charge, fewest 1; case texts of a few hundred characters."
)
HELD_CHARGES = 70  # of 191
NAMED = 3  # charges that a description names
SHAPES = {  # (kind, charges, train texts a charge); the kinds as above
    False: (
        ("mixed", 5, 2), ("mixed", 5, 20), ("mixed", 8, 5), ("mixed", 10, 10), ("mixed", 15, 3), ("mixed", 20, 20),
        ("mixed", 30, 5), ("mixed", 40, 10), ("mixed", 50, 2), ("mixed", 60, 15), ("alike", 5, 10), ("alike", 8, 20),
        ("alike", 12, 4), ("alike", 16, 8), ("alike", 25, 15), ("alike", 40, 4),
    ),
    True: (("mixed", 7, 3), ("mixed", 18, 15), ("mixed", 55, 6), ("alike", 6, 12), ("alike", 14, 2), ("alike", 30, 18)),
}  # fmt: skip


@dataclass(frozen=True)
class Subset:
    """One instance: which charges, and how many train texts of each."""

    name: str
    charges: tuple[int, ...]  # class numbers, sorted
    texts: int  # train texts a charge; a charge that has fewer in a split gives all of its own
    alike: bool  # easily confused ones
    held_out: bool
    characters: int  # median length of its charges' train texts
    examples: tuple[str, ...]  # names of a few charges

    @property
    def description(self) -> str:
        """One line for the prompt."""
        kind = "easily confused charges" if self.alike else "charges of all kinds"
        total = len(self.charges) * self.texts
        return (
            f"{len(self.charges)} {kind}, {self.texts} train texts each, {total} in all; "
            f"case texts of about {self.characters} characters; charges such as {', '.join(self.examples)}."
        )

    def fit_rows(self, labels: Sequence[int]) -> list[int]:
        """Rows that the instance fits, of train texts with these labels: ``texts`` of each charge, seeded; sorted."""
        rows: dict[int, list[int]] = {c: [] for c in self.charges}
        for row, label in enumerate(labels):
            if label in rows:
                rows[label].append(row)
        drawn = (Random(f"lawbench {self.name} {c}").sample(r, min(self.texts, len(r))) for c, r in rows.items())
        return sorted(row for part in drawn for row in part)

    def rows(self, labels: Sequence[int]) -> list[int]:
        """Rows of the instance's charges among texts with these labels: those it is scored on."""
        charges = set(self.charges)
        return [row for row, label in enumerate(labels) if label in charges]


@cache
def subsets() -> dict[str, Subset]:
    """The frozen instances by name, those for training first."""
    out = {}
    for entry in json.loads(FILE.read_text(encoding="utf-8")):
        out[entry["name"]] = Subset(**{k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()})
    return out


@cache
def instances() -> tuple[Instance, ...]:
    """What the task declares: the whole set first, then the subsets."""
    return (WHOLE, *(Instance(s.name, s.description, s.held_out) for s in subsets().values()))


# --- how the frozen lists came about ----------------------------------------------------------------------
def propose(layout: Layout) -> list[dict[str, Any]]:
    """The instances as plain data, derived from the prepared train texts of ``layout``; dev and test are not read."""
    from statistics import median

    classes, train = read_json(layout.public / "classes.json"), read_json(layout.public / "train.json")
    labels, near = train["labels"], class_cosines(layout, train["labels"])
    lengths: dict[int, list[int]] = {c: [] for c in range(CLASSES)}
    for text, label in zip(train["texts"], labels, strict=True):
        lengths[label].append(len(text))
    size = {c: len(n) for c, n in lengths.items()}
    out = []
    for held_out, pile in deal(size).items():
        for kind, count, texts in SHAPES[held_out]:
            name = f"{'held-' if held_out else ''}{kind}-{count}x{texts}"
            rng, able = Random(f"lawbench {name}"), [c for c in pile if size[c] >= texts]
            first = rng.choice(able)
            if kind == "mixed":
                charges = sorted(rng.sample(able, count))
            else:
                charges = sorted(sorted(able, key=lambda c: (c != first, -round(float(near[first, c]), 6), c))[:count])
            short = sorted(charges, key=lambda c: (len(classes[c]), c))[: max(NAMED, count // 2)]
            examples = [classes[c] for c in sorted(rng.sample(short, NAMED))]
            characters = int(round(median(n for c in charges for n in lengths[c]), -1))
            out.append(
                {"name": name, "charges": charges, "texts": texts, "alike": kind == "alike", "held_out": held_out}
                | {"characters": characters, "examples": examples}
            )
    return out


def deal(size: dict[int, int]) -> dict[bool, list[int]]:
    """The charges in two piles, held out or not, each with its share of the rare ones; ``size``: train texts of each."""
    most, piles = max(size.values()), {False: [], True: []}
    for rare in (False, True):
        group = sorted(c for c, n in size.items() if (n < most) == rare)
        Random(f"lawbench instances {rare}").shuffle(group)
        held = round(HELD_CHARGES * len(group) / len(size))
        piles[True] += group[:held]
        piles[False] += group[held:]
    return {held_out: sorted(pile) for held_out, pile in piles.items()}


def class_cosines(layout: Layout, labels: list[int]) -> Any:
    """Cosines of the classes' mean train texts, less the mean of those, float [191, 191].

    A text is the unit vector of its character 1- and 2-grams, log tf times smooth idf.
    """
    import numpy as np
    import scipy.sparse as sp

    from .counts import load
    from .features import unit_rows, weigh
    from .models import one_hot

    counts = sp.hstack([load(layout.public, atom, len(labels))[0] for atom in ("c1", "c2")], format="csr")
    texts, _ = weigh(counts, counts[:1], "log", "smooth")
    member = one_hot(np.array(labels))
    means = (sp.csr_matrix((member / member.sum(axis=0)).T) @ unit_rows(texts)).toarray()
    means -= means.mean(axis=0)  # what all accounts of cases share makes no two charges alike
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    return means @ means.T


def main() -> None:
    """Write instances.json anew from the prepared data."""
    from ...store import data_dir

    lines = [json.dumps(entry, ensure_ascii=False) for entry in propose(Layout(data_dir(), 0))]
    FILE.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
