"""The lessons' pictures are shown in a notebook, the second and later ones too."""

import os
import subprocess
import sys

SHELL = """
import sys
from IPython.core.interactiveshell import InteractiveShell
sys.exit(not InteractiveShell.instance().run_cell(sys.argv[1]).success)
"""
CODE = """
import matplotlib.pyplot as plt
from sia_nb.lessons.drawing import drawing
for turn in range(2):
    with drawing() as plt:
        assert not plt.rcParams["axes.spines.top"], "the house style"
        plt.figure()
    assert plt.isinteractive(), f"turn {turn}: a notebook shows figures only in interactive mode"
    assert len(plt.get_fignums()) == turn + 1, "no figure is closed before it is shown"
assert plt.rcParams["axes.spines.top"], "the style ends with the context"
"""


def test_drawing_leaves_a_notebooks_interactive_mode_on():
    env = os.environ | {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    done = subprocess.run([sys.executable, "-c", SHELL, CODE], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
