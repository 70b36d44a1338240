"""A solution that passes on dev and fails on the sealed test is reported with 0 and the reason."""

from types import SimpleNamespace

from sia_nb.errors import InvalidSolution
from sia_nb.phases import _open_seal
from sia_nb.tasks.base import Score, Solution


class Fails:
    def seal(self, solution):
        raise InvalidSolution("wrong", "at [0, 1]")


def test_a_sealed_test_that_fails():
    solution = Solution("code", "def f(): pass\n")
    found = _open_seal(SimpleNamespace(report_metric="speedup"), Fails(), solution, {solution.id: Score(1.7, True)})
    assert found["test"] == {"speedup": 0.0} and found["dev"] == 1.7 and found["failed"] == "wrong: at [0, 1]"
