"""A made-up study of the denoising task for the tests of what people look at: arms, seeds, verdicts, known methods."""

import math
from dataclasses import dataclass
from random import Random

from view_runs import a_result, a_rollout, a_run, a_step, a_verdict, trained

from sia_nb import tasks
from sia_nb.store import write_json
from sia_nb.tasks.base import Instance
from sia_nb.tasks.space import Field, Space


@dataclass(frozen=True)
class KindField(Field):
    kind: str = "parameter"


class StandIn:
    """Enough of the task for its runs to be looked at."""

    name, title, metric, report_metric = "denoising", "Single-cell denoising", "mse_norm on dev, soft-gated", "mse_norm"
    instances = (Instance("pbmc68k", ""), Instance("pancreas", ""))
    space = Space(
        [
            KindField("normalisation", ("library", "sqrt", "log"), "", kind="structure"),
            KindField("knn", (3, 5, 10, 15), "", True),
            KindField("t", (1, 2, 3, 5), "", True),
            KindField("round", ("none", 0.1, 1), "", kind="post-processing"),
        ]
    )


def register(monkeypatch):
    """Have runs of the task looked at with this small space, whose kinds of change can be counted by hand."""
    monkeypatch.setitem(tasks.REGISTRY, "denoising", "view_denoising:StandIn")


def spec(normalisation="library", knn=5, t=3, round="none"):  # noqa: A002
    """A spec of the stand-in's space, as text."""
    return StandIn.space.dump({"normalisation": normalisation, "knn": knn, "t": t, "round": round})


PUBLISHED = {
    "MAGIC": {"pancreas": (0.239, 0.59), "pbmc1k": (0.304, 0.541)},
    "MAGIC, reversed normalisation": {"pancreas": (0.2405, 0.977)},
    "ALRA, square root": {"pancreas": (-0.012, 0.976)},
    "KNN smoothing": {"pancreas": (0.091, -10.3)},
    "DCA": {"pancreas": (0.117, -0.076)},
}
KNOWN = {  # mse_norm, poisson_norm, the swapped
    "raw counts": (0.0, 0.0, 0.0),
    "gene means": (-0.36, 0.47, 0.985),
    "MAGIC": (0.066, 0.509, 0.41),
    "MAGIC, reversed normalisation": (0.05, -0.87, 0.991),
    "MAGIC, reversed normalisation, scaled to train": (0.05, 0.538, 0.1),
    "ALRA, square root": (-0.39, 0.405, -1.06),
    "ALRA, square root, reversed": (-0.33, -0.695, 0.987),
    "ALRA, square root, reversed, scaled to train": (-0.33, 0.416, -0.2),
    "KNN smoothing": (-0.17, -1.5, -10.4),
    "KNN smoothing, scaled to train": (-0.17, 0.535, -0.04),
    "DCA": (None, None, None),
}


def known(run, seed=0):
    """Lay down what the known methods are worth on the run's data."""
    rows = [
        {
            "method": m,
            "mse_norm": a and a + 0.002 * seed,
            "poisson_norm": b,
            "poisson_norm_openproblems": c,
            "published": PUBLISHED.get(m, {}),
        }
        for m, (a, b, c) in KNOWN.items()
    ]
    write_json(run.path / "peers.json", {"dev": rows, "sealed": rows})


def tries(rng, n, centre, prefix):
    """``n`` verdicts around an mse_norm: the further up, the worse the right Poisson measure, as a threshold makes it."""
    out = []
    for i in range(n):
        value = max(0.0, rng.gauss(centre, 0.06))
        right = 0.56 - 1.1 * max(0.0, value - 0.1) ** 1.3 - abs(rng.gauss(0, 0.05)) - (1.5 if rng.random() < 0.03 else 0)
        out.append(a_verdict(f"{prefix}{i}", value, right, 0.985 - abs(rng.gauss(0, 0.02 + 0.4 * (rng.random() < 0.3)))))
    return out


def study(results, seeds=3):
    """Three arms, some seeds, eight steps each."""
    for seed in range(seeds):
        for arm, value in (("H", 0.19), ("W", 0.16), ("W+H", 0.235)):
            rng = Random(f"{arm}{seed}")
            value += rng.gauss(0, 0.012)
            more = {"poisson_norm": 0.52 + 0.005 * seed, "poisson_norm_openproblems": 0.981, "passes_right": 1.0}
            if arm == "W" and seed == 1:
                more |= {"poisson_norm": 0.5, "passes_right": 0.0}
            run = a_run(
                results,
                seed,
                value,
                arm=arm,
                base=0.08 + 0.003 * seed,
                task="denoising",
                profile="cpu",
                more=more,
                solution=spec(),
            )
            known(run, seed)
            here, best = spec(), 0.081
            for g in range(2, 9):
                lever = {"H": "harness", "W": "weights"}.get(arm) or rng.choice(("harness", "weights"))
                drawn = tries(rng, 20, 0.08 + (value - 0.06) * (1 - math.exp(-g / 2)), f"{arm}{seed}{g}-")
                keep = rng.random() < 0.6
                score = best + 0.03 * rng.random() if keep else best - 0.02 * rng.random()
                best = max(best, score)
                if keep:
                    here = spec(
                        rng.choice(("library", "sqrt", "log")),
                        rng.choice((3, 5, 10)),
                        rng.choice((1, 2, 3)),
                        rng.choice(("none", 0.1)),
                    )
                rolled = [
                    a_rollout(v["score"]) | {"solution_id": v["solution_id"] + "r", "metrics": v["metrics"]} for v in drawn[:12]
                ]
                training = {"algorithm": "grpo", "rollouts": rolled} if lever == "weights" else {}
                answer = a_verdict(f"{arm}{seed}", value, 0.53, 0.98)
                a_step(
                    run, g, score, action=lever, parent=1, accepted=keep, solution=here,
                    verdicts=[*(drawn[12:] if training else drawn), *([answer] if g == 8 else [])], **training,
                )  # fmt: skip
                if training:
                    trained(run, g, a_result(0.05, 0.08), [])
