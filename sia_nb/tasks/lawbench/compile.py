"""A spec as readable Python: the functions it needs, as they stand in this package, and ``fit_predict``.

The source is the full method, nothing thinned or approximated; ``fast`` computes the same on shared data.
"""

from __future__ import annotations

import inspect
from typing import Any

from . import features, models, second
from .solution import SIZES, bases

HEAD = '''"""{title}"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import scipy.sparse as sp

FOLDS = {folds}
'''

CALLS = {
    "ridge": "ridge(*cosines(*{x}), y, w, {strength})",
    "centroid": "centroid(*cosines(*{x}), y, {strength})",
    "knn": "knn(*cosines(*{x}), y, w, {strength})",
    "nb": "naive_bayes(*{x}, y, {weight!r}, {strength})",
    "svc": "svc(*map(unit_rows, {x}), y, {weight!r}, {strength}, need_held={held})",
}

COSINES = '''
def cosines(train: sp.csr_matrix, new: sp.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Cosines of train with train and of new with train texts."""
    train, new = unit_rows(train), unit_rows(new)
    return (train @ train.T).toarray(), (new @ train.T).toarray()
'''


def view_source(view: str) -> str:
    """A function that returns the weighted features of one view."""
    unit = "grams" if view.startswith("char") else "word_grams"
    return f'''
def {view}(train_texts: list[str], texts: list[str], y: np.ndarray) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Weighted features of the train and of the new texts."""
    parts = [count([{unit}(t, n) for t in train_texts], [{unit}(t, n) for t in texts]) for n in {SIZES[view]}]
    train, new = (sp.hstack(side, format="csr") for side in zip(*parts))
    columns = chosen_columns(train, y, MIN_DF, TOP)
    return weigh(train[:, columns], new[:, columns], TF, IDF)
'''


def compile_spec(spec: dict[str, Any]) -> str:
    """The Python module that ``spec`` stands for; it defines ``fit_predict`` and runs by itself."""
    members = bases(spec)
    views = sorted({b.view for b in members})
    kinds = {b.model for b in members}
    level2 = spec["level2"]
    uses_kernel = bool(kinds & {"ridge", "centroid", "knn"})
    used = [features.grams] if any(v.startswith("char") for v in views) else []
    used += [features.word_grams] if any(v.startswith("word") for v in views) else []
    used += [features.count, features.chosen_columns, features.weigh]
    used += [features.unit_rows] if uses_kernel or "svc" in kinds else []
    used += [models.class_weights] + ([models.one_hot] if kinds - {"svc"} else [])
    for kind, function in (
        ("ridge", models.ridge),
        ("centroid", models.centroid),
        ("knn", models.knn),
        ("nb", models.naive_bayes),
    ):
        used += [function] if kind in kinds else []
    used += [models.folds, models.svc] if "svc" in kinds else []
    used += [second.plain_sum] if level2 == "none" else [second.scaled, second.conditional_logit]
    used += [second.rerank] if level2 == "rerank" else []

    first = members[0]
    title = f"LawBench, 191 charges: {' + '.join(f'{b.model} on {b.view}' for b in members)}; second level: {level2}."
    parts = [HEAD.format(title=title, folds=models.FOLDS)]
    parts.append(f"MIN_DF, TOP, TF, IDF = {first.min_df}, {first.select}, {first.tf!r}, {first.idf!r}\n")
    parts += ["\n" + inspect.getsource(f) for f in used]
    parts += [COSINES] if uses_kernel else []
    parts += [view_source(v) for v in views]

    body = [
        "def fit_predict(train_texts: list[str], train_labels: list[int], texts: list[str]) -> list[int]:",
        '    """Class numbers of ``texts``."""',
        "    classes, y = np.unique(train_labels, return_inverse=True)",
        f"    w = class_weights(y, {first.weight!r})[y]",
    ]
    body += [f"    x_{v} = {v}(train_texts, texts, y)" for v in views]
    body.append("    base = [")
    for b in members:
        call = CALLS[b.model].format(x=f"x_{b.view}", strength=b.strength, weight=b.weight, held=level2 != "none")
        body.append(f"        {call},")
    body.append("    ]")
    if level2 == "none":
        body.append("    scores = plain_sum([new for _, new in base])")
    else:
        body.append("    held, new = scaled([h for h, _ in base], [s for _, s in base])")
        if level2 == "rerank":
            body.append(f"    scores = rerank(held, new, y, w, {spec['strength2']})")
        else:
            body.append(f"    _, scores = conditional_logit(held, new, y, w, {spec['strength2']}, by_class={level2 == 'stack'})")
    body.append("    return [int(c) for c in classes[scores.argmax(axis=1)]]")
    return "\n".join(parts) + "\n\n" + "\n".join(body) + "\n"
