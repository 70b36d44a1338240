"""From texts to weighted sparse features. Compiled solutions carry these functions as they stand here.

Every function works on numpy and scipy alone and names nothing of the kit.
"""

from __future__ import annotations

import re

import numpy as np
import scipy.sparse as sp


def grams(text: str, size: int) -> list[str]:
    """All runs of ``size`` characters."""
    return [text[i : i + size] for i in range(len(text) - size + 1)]


def word_grams(text: str, size: int) -> list[str]:
    """All runs of ``size`` words as jieba cuts them, punctuation left out, joined by a space."""
    import jieba

    words = [w for w in jieba.lcut(text) if re.match(r"\w", w)]
    return [" ".join(words[i : i + size]) for i in range(len(words) - size + 1)]


def count(train_units: list[list[str]], units: list[list[str]]) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Counts of the train texts' vocabulary, columns in sorted order, in the train and in the new texts."""
    vocabulary = {u: j for j, u in enumerate(sorted({u for text in train_units for u in text}))}

    def matrix(lists: list[list[str]]) -> sp.csr_matrix:
        columns = [[vocabulary[u] for u in text if u in vocabulary] for text in lists]
        ends = np.cumsum([0] + [len(c) for c in columns])
        flat = np.fromiter((j for c in columns for j in c), np.int32, ends[-1])
        counts = sp.csr_matrix((np.ones(len(flat)), flat, ends), (len(lists), len(vocabulary)))
        counts.sum_duplicates()
        return counts

    return matrix(train_units), matrix(units)


def chosen_columns(counts: sp.csr_matrix, y: np.ndarray, min_df: int, top: int | None) -> np.ndarray:
    """Columns that occur in at least ``min_df`` train texts; of those the ``top`` by chi-squared with the class.

    Raises:
        ValueError: none does.
    """
    df = np.bincount(counts.indices, minlength=counts.shape[1])
    columns = np.flatnonzero(df >= min_df)
    if not len(columns):
        raise ValueError(f"nothing occurs in {min_df} of the {counts.shape[0]} train texts: min_df is too high")
    if top is None or len(columns) <= top:
        return columns
    kept = counts[:, columns]
    classes, y = np.unique(y, return_inverse=True)
    member = sp.csr_matrix((np.ones(len(y)), (y, np.arange(len(y)))), (len(classes), len(y)))
    observed = (member @ kept).tocsr()
    total = np.asarray(kept.sum(axis=0)).ravel()
    share = np.bincount(y) / len(y)
    rows = np.repeat(np.arange(len(classes)), np.diff(observed.indptr))
    terms = observed.data**2 / (share[rows] * total[observed.indices])
    chi2 = np.bincount(observed.indices, terms, minlength=len(columns)) - total
    return np.sort(columns[np.argsort(-chi2, kind="stable")[:top]])


def weigh(train: sp.csr_matrix, new: sp.csr_matrix, tf: str, idf: str) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Apply a term-frequency curve and an inverse document frequency learned from ``train``."""
    n = train.shape[0]
    df = np.bincount(train.indices, minlength=train.shape[1])
    mean_length = train.sum() / n
    factor = {
        "none": np.ones(len(df)),
        "smooth": np.log((1 + n) / (1 + df)) + 1,
        "plain": np.log(n / np.maximum(df, 1)),
        "okapi": np.log1p((n - df + 0.5) / (df + 0.5)),
    }[idf]

    def curve(counts: sp.csr_matrix) -> sp.csr_matrix:
        c = counts.data.astype(float)
        length = np.repeat(np.asarray(counts.sum(axis=1)).ravel(), np.diff(counts.indptr))
        values = {
            "raw": lambda: c,
            "binary": lambda: np.ones_like(c),
            "log": lambda: 1 + np.log(c),
            "loglog": lambda: 1 + np.log1p(np.log(c)),
            "bm25": lambda: 2.2 * c / (c + 1.2 * (0.25 + 0.75 * length / mean_length)),
        }[tf]()
        return sp.csr_matrix((values * factor[counts.indices], counts.indices, counts.indptr), counts.shape)

    return curve(train), curve(new)


def unit_rows(x: sp.csr_matrix) -> sp.csr_matrix:
    """Rows scaled to length 1, so that products are cosines."""
    norm = np.sqrt(np.asarray(x.multiply(x).sum(axis=1)).ravel())
    norm[norm == 0] = 1
    return sp.csr_matrix((x.data / np.repeat(norm, np.diff(x.indptr)), x.indices, x.indptr), x.shape)
