"""What several test files share: the real data and the real model, fetched once; and the order of the files."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # workers side by side: one thread each, before torch is imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

from sia_nb.store import data_dir

pytest_plugins = ["trust"]

settings.register_profile("repeatable", deadline=None, derandomize=True)  # the same examples in every run
settings.register_profile("explore", deadline=None, max_examples=2000)  # other ones each time: make fuzz
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def pytest_collection_modifyitems(items):
    """The file that takes longest first, so that the others fill the time beside it."""
    items.sort(key=lambda item: item.path.name != "test_loop.py")


@pytest.fixture(scope="session")
def lawbench_data():
    """The prepared data of LawBench, split seed 0; returns the data folder."""
    from sia_nb.tasks import get_task

    get_task("lawbench").fetch(data_dir(), seed=0)
    return data_dir()


@pytest.fixture(scope="session")
def denoising_data(tmp_path_factory):
    """The denoising task's offline data, seed 0; returns the data folder."""
    from sia_nb.tasks import get_task

    folder = tmp_path_factory.mktemp("denoising-data")
    get_task("denoising").fetch(folder, seed=0)
    return folder


@pytest.fixture(scope="session")
def embedded_model():
    """The embedded model, fetched and converted; returns the data folder."""
    from sia_nb.policy.model import fetch

    fetch(data_dir())
    return data_dir()
