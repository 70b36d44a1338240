"""The space of LawBench solutions: a typed spec, or free Python; and how a spec becomes Python.

Imports no numpy, so that prompts and grammars can be made without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .. import code
from ..base import Solution
from ..space import Field, Space

ENTRY = "fit_predict"
ARGUMENTS = ("train_texts", "train_labels", "texts")
VIEWS = ("char1", "char12", "char13", "char2", "char23", "word1", "word12")
MODELS = ("centroid", "knn", "nb", "ridge", "svc")
SIZES = {"char1": (1,), "char12": (1, 2), "char13": (1, 2, 3), "char2": (2,), "char23": (2, 3), "word1": (1,), "word12": (1, 2)}

SPACE = Space(
    [
        Field("view", VIEWS, "what is counted: characters or words, n-grams from the first to the last digit", kind="structure"),
        Field("tf", ("raw", "binary", "log", "loglog", "bm25"), "how a count grows into a weight"),
        Field("idf", ("none", "smooth", "plain", "okapi"), "inverse document frequency"),
        Field("min_df", (1, 2, 3, 5, 10, 20), "a feature occurs in at least so many train texts", True),
        Field("select", (2000, 5000, 10000, 20000, 50000, "all"), "features kept by chi-squared with the class", True),
        Field("model", MODELS, "nearest class mean, neighbours, naive Bayes, ridge regression, linear SVC", kind="structure"),
        Field(
            "strength",
            (0.03, 0.1, 0.3, 1, 3, 10, 30),
            "how closely the model follows single texts: C, 1 / penalty, 1 / smoothing, 5 / neighbours",
            True,
        ),
        Field("weight", ("none", "sqrt", "balanced"), "how far small classes are weighted up"),
        Field(
            "level2",
            ("none", "bias", "stack", "rerank"),
            "on held-out scores: class offsets, weights per model and class, or a judge of the top 6",
            kind="post-processing",
        ),
        Field("strength2", (0.01, 0.1, 1, 10), "how closely the second level follows single texts", True, "post-processing"),
        Field("view2", ("none", *VIEWS), "the text view of a second model", kind="structure"),
        Field("model2", MODELS, "the second model; the fields above hold for it too", kind="structure"),
        Field("view3", ("none", *VIEWS), "the text view of a third model", kind="structure"),
        Field("model3", MODELS, "the third model", kind="structure"),
    ]
)

FALLBACK = {
    "view": "word1",
    "tf": "raw",
    "idf": "none",
    "min_df": 1,
    "select": "all",
    "model": "nb",
    "strength": 1,
    "weight": "none",
    "level2": "none",
    "strength2": 1,
    "view2": "none",
    "model2": "nb",
    "view3": "none",
    "model3": "nb",
}


@dataclass(frozen=True)
class Base:
    """One base model of a spec with all it depends on."""

    view: str
    tf: str
    idf: str
    min_df: int
    select: int | None  # None: all
    model: str
    strength: float
    weight: str

    @property
    def features(self) -> tuple[Any, ...]:
        """What its weighted features depend on."""
        return (self.view, self.tf, self.idf, self.min_df, self.select)


def bases(spec: dict[str, Any]) -> list[Base]:
    """The one to three different base models of a spec, in order."""
    top = None if spec["select"] == "all" else spec["select"]
    shared = (spec["tf"], spec["idf"], spec["min_df"], top)
    out: list[Base] = []
    for view, model in (("view", "model"), ("view2", "model2"), ("view3", "model3")):
        if spec[view] == "none":
            continue
        base = Base(spec[view], *shared, spec[model], float(spec["strength"]), spec["weight"])
        if base not in out:
            out.append(base)
    return out


def parse(text: str) -> Solution:
    """The solution in ``text``: Python where a line starts with ``def `` or ``import ``, else a spec.

    Raises:
        InvalidSolution: unparsable, unknown_field, missing_field, bad_value, syntax or no_entry.
    """
    return code.parse(text, SPACE, ENTRY, ARGUMENTS)


def check_code(text: str) -> str:
    """Free Python, its syntax and entry checked without running it; lines without trailing space."""
    return code.check(text, ENTRY, ARGUMENTS)
