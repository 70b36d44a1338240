"""The teaching notebooks: what their experiments show, what their checks say, and that they run to their end."""

import json

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

from sia_nb.lessons import denoising, denoising_checks
from sia_nb.notebooks import NOTEBOOKS
from sia_nb.tasks.denoising.metrics import poisson_loss

LESSONS = sorted((NOTEBOOKS / "lessons").glob("*.ipynb"))


@pytest.fixture(scope="module")
def blood():
    return denoising.blood(seed=0)


def test_the_truth_scores_below_its_distortions_under_mse_and_above_them_under_poisson():
    table = denoising.truth_and_distortions(cells=150, genes=250, seed=1).set_index("prediction")
    truth = table.loc["the truth"]
    assert truth["error"] == 0
    for name in ("the truth, rounded to 8", "the truth to the power 2"):
        assert table.loc[name, "mse_norm"] > truth["mse_norm"] + 0.2
        assert table.loc[name, "poisson_norm"] < truth["poisson_norm"] - 0.1
        assert table.loc[name, "error"] > 0.2


def test_the_best_guess_minimises_the_squared_error_of_logarithms():
    rng = np.random.default_rng(0)
    drawn = np.log1p(1e4 * rng.poisson(0.3, 200_000) / 60)
    guess = float(denoising.best_guess(np.array(0.3), 60))
    errors = [((drawn - np.log1p(1e4 * g / 60)) ** 2).mean() for g in (0.8 * guess, guess, 1.25 * guess, 0.3)]
    assert min(errors) == errors[1]


def test_a_high_power_passes_the_published_gate_only_and_magic_the_right_one_only(blood):
    table = denoising.sweep(blood, powers=(1, 4)).set_index("power")
    assert list(table["passes_right"]) == [True, False]
    assert list(table["passes_published"]) == [False, True]
    assert table.loc[4, "mse_norm"] > 5 * table.loc[1, "mse_norm"]


def test_the_biology_of_a_shrink_is_read_off_marker_genes(blood):
    made = {k: denoising.annotated(blood, v) for k, v in denoising.predictions(blood).items() if k != "counts"}
    table = denoising.biology(blood, made).set_index("prediction")
    assert table.loc["MAGIC to the power 4", "marker_cells"] < 0.7 * table.loc["MAGIC", "marker_cells"]
    assert table.loc["MAGIC to the power 4", "genes"] < 0.5 * table.loc["MAGIC", "genes"]


@pytest.mark.parametrize(
    "answer, says",
    [
        (lambda rate, library: None, "returns nothing"),
        (lambda rate, library: rate, "expected count itself"),
        (lambda rate, library: float(denoising.expected_log(np.array(rate), library)), "back to the scale"),
        (lambda rate, library: 1 / 0, "ZeroDivisionError"),
        (lambda rate, library: "much", "expected a number"),
        (lambda rate, library: float(denoising.best_guess(np.array(rate), library)), "right"),
    ],
)
def test_exercise_1_says_what_is_wrong(answer, says, capsys):
    assert denoising_checks.check_best_guess(answer) == (says == "right")
    assert says in capsys.readouterr().out


def measure(prediction, split, *, scale=True, swap=False, norm=True):
    train, test = split.train.toarray(), split.test.toarray()
    factor = test.sum() / train.sum() if scale else 1.0
    loss = (lambda a, b: poisson_loss(b, a).mean()) if swap else (lambda a, b: poisson_loss(a, b).mean())
    ours, none = loss(prediction * factor, test), loss(train * factor, test)
    perfect = loss(test * factor if swap else test, test)
    return (none - ours) / (none - perfect) if norm else ours


@pytest.mark.parametrize(
    "how, says",
    [
        ({}, "right"),
        ({"swap": True}, "swapped"),
        ({"scale": False}, "train's scale"),
        ({"norm": False}, "normalise it"),
    ],
)
def test_exercise_2_says_what_is_wrong(how, says, blood, capsys):
    answer = lambda prediction, split: measure(prediction, split, **how)
    assert denoising_checks.check_poisson_norm(answer, blood.split) == (says == "right")
    assert says in capsys.readouterr().out


@pytest.mark.parametrize(
    "changes, says",
    [({}, "2.5 times"), ({"pawer": 2}, "'pawer'"), ({"knn": 7}, "'knn' is 7"), ({"power": 3}, "does not pass the right gate")],
)
def test_exercise_3_says_what_is_wrong(changes, says, blood, capsys):
    assert not denoising_checks.check_spec(changes, blood.split)
    assert says in capsys.readouterr().out


def exercises(path):
    """The code of a lesson's cells that its solution fills in; everything else is the same in both."""
    open_, solved = (json.loads(p.read_text())["cells"] for p in (path, path.parent / "solutions" / path.name))
    assert [c["cell_type"] for c in open_] == [c["cell_type"] for c in solved]
    pairs = zip(open_, solved, strict=True)
    return ["".join(c["source"]) for c, s in pairs if c["cell_type"] == "code" and c["source"] != s["source"]]


@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)
def test_every_lesson_has_its_solutions_and_the_same_text(path):
    assert exercises(path) and all("_checks." in cell for cell in exercises(path))


@pytest.mark.slow
@pytest.mark.parametrize("folder", [".", "solutions"])
@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)
def test_lessons_run_to_their_end_and_solutions_are_right(path, folder):
    notebook = nbformat.read(path.parent / folder / path.name, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(path.parent)}}).execute()
    said = "".join(o.get("text", "") for c in notebook.cells if c.cell_type == "code" for o in c.outputs)
    assert ("not yet" not in said) == (folder == "solutions")
    assert said.count("right: ") == (len(exercises(path)) if folder == "solutions" else 0)
