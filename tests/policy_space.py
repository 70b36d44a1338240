"""What the policy's tests share: a realistic space, a prompt for it, and the embedded model made ready once."""

from functools import cache
from random import Random

from sia_nb.policy.model import FOLDER, fetch, load
from sia_nb.store import data_dir
from sia_nb.tasks.space import Field, Space

VIEWS = ("char1", "char12", "char123", "char2", "char23", "word1", "word12")
MODELS = ("svc", "ridge", "centroid", "nb", "knn")
DECLARED = {
    "view": VIEWS,
    "tf": ("raw", "log", "binary", "sqrt", "bm25"),
    "idf": ("none", "plain", "smooth"),
    "min_df": (1, 2, 3, 5, 10),
    "select": ("none", 5000, 10000, 20000, 40000),
    "model": MODELS,
    "strength": (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100),
    "weight": ("none", "balanced", "sqrt"),
    "second": ("none", "bias", "stack", "rerank"),
    "view2": VIEWS,
    "model2": MODELS,
    "view3": VIEWS,
    "model3": MODELS,
    "top": (3, 5, 8),
}
SPACE = Space([Field(name, values, f"the {name} in use") for name, values in DECLARED.items()])


def messages(seed: int = 0) -> list[dict[str, str]]:
    """A chat of about 800 tokens: the space, four examples with scores, and a request."""
    rng = Random(seed)
    examples = "\n".join(f"{SPACE.dump(SPACE.random(rng))}  # {rng.random():.3f}" for _ in range(4))
    return [
        {"role": "system", "content": "You answer with one line of JSON and nothing else."},
        {"role": "user", "content": f"Fields:\n{SPACE.describe()}\n\nExamples:\n{examples}\n\nWrite a better line."},
    ]


@cache
def policy():
    """The embedded policy, fetched where it is not there."""
    fetch(data_dir())
    return load(data_dir=data_dir())


@cache
def tokenizer():
    """Its tokenizer alone."""
    from transformers import AutoTokenizer

    fetch(data_dir())
    return AutoTokenizer.from_pretrained(data_dir() / "models" / FOLDER)
