"""A spec as readable Python on magic-impute: the steps it asks for, and nothing else, in ``denoise``.

``engine`` computes the same on shared graphs.
"""

from __future__ import annotations

import inspect
from typing import Any

from . import postprocess
from .graph import SEED
from .solution import SPACE

FORWARD = {"sqrt": "np.sqrt", "log": "np.log1p"}
BACK = {"sqrt": "np.square", "log": "np.expm1"}
TITLES = {
    "none": "raw counts",
    "library": "library-size-normalised counts",
    "sqrt": "square roots of library-size-normalised counts",
    "log": "logarithms of library-size-normalised counts",
}
LIBRARY = [
    "    library = np.asarray(x.sum(axis=1)).ravel()",
    "    factors = np.where(library > 0, library, 1) / np.median(library[library > 0])",
    "    x = (sp.diags(1 / factors) @ x).tocsr()",
]


def title(spec: dict[str, Any]) -> str:
    """A module docstring that says what the spec does."""
    how = spec["normalisation"]
    what = TITLES[how]
    if spec["reversed"] and how in FORWARD:
        what = f"{TITLES[how].split(' of ')[0]} of counts, then library-size normalisation (reversed)"
    steps = [n for n in ("blend", "shrink", "clip") if spec[n]] + (["power"] if spec["power"] != 1 else [])
    steps += [n for n in ("rescale", "round", "calibrate") if spec[n] != "none"]
    done = [n for n in SPACE.names if n in steps]
    then = f"\n\nThen: {', '.join(done)}." if done else ""
    return f"MAGIC on {what}.{then}"


def compile_spec(spec: dict[str, Any]) -> str:
    """The Python module that ``spec`` stands for; it defines ``denoise`` and runs by itself."""
    how = spec["normalisation"]
    reverse = spec["reversed"] and how in FORWARD
    matched = {spec["rescale"], spec["calibrate"]} != {"none"}
    used = [postprocess.blend] if spec["blend"] else []
    used += [postprocess.match_sums] if matched else []
    used += [postprocess.shrink] if spec["shrink"] else []
    used += [postprocess.round_to] if spec["round"] != "none" else []

    change = [f"    x.data = {FORWARD[how]}(x.data)"] if how in FORWARD else []
    library = [] if how == "none" else LIBRARY
    body = [
        "def denoise(counts: sp.csr_matrix) -> np.ndarray:",
        '    """Expected molecules of every cell and gene."""',
        "    x = sp.csr_matrix(counts, dtype=float, copy=True)",
        *(change + library if reverse else library + change),
        "    operator = magic.MAGIC(",
        f"        n_pca={spec['pcs']},",
        f"        knn={spec['knn']},",
        f"        knn_max=min({3 * spec['knn']}, x.shape[0] - 1),",
        f"        decay={spec['decay']},",
        f"        t={spec['t']},",
        f'        solver="{spec["solver"]}",',
        f"        random_state={SEED},",
        "        verbose=0,",
        "    )",
        '    y = np.maximum(operator.fit_transform(x, genes="all_genes"), 0)',
    ]
    if reverse:
        body.append(f"    y = {BACK[how]}(y * factors[:, None])")
    else:
        body += [f"    y = {BACK[how]}(y)"] if how in BACK else []
        body += ["    y = y * factors[:, None]"] if how != "none" else []
    if matched:
        body.append("    cells, genes = (np.asarray(counts.sum(axis=a, dtype=float)).ravel() for a in (1, 0))")
    if spec["blend"]:
        body.append(f"    y = blend(y, counts.toarray(), {spec['blend']})")
    if spec["rescale"] != "none":
        body.append(f'    y = match_sums(y, cells, genes, "{spec["rescale"]}")')
    if spec["power"] != 1:
        body.append(f"    y = y ** {spec['power']}")
    if spec["shrink"]:
        body.append(f"    y = shrink(y, {spec['shrink']}, {spec['keep']})")
    if spec["clip"]:
        body.append(f"    y = np.maximum(y, {spec['clip']})")
    if spec["round"] != "none":
        body.append(f"    y = round_to(y, {spec['round']})")
    if spec["calibrate"] != "none":
        body.append(f'    y = match_sums(y, cells, genes, "{spec["calibrate"]}")')
    body.append("    return y")
    head = f'"""{title(spec)}"""\n\nimport magic\nimport numpy as np\nimport scipy.sparse as sp\n'
    return "\n\n".join([head, *(inspect.getsource(f) for f in used), "\n".join(body) + "\n"])
