"""transformers without scikit-learn, SciPy's statistics and pandas, a third of its import time: each notebook is a process.

It takes them, where they are installed, for one kind of assisted decoding that nothing here uses. Imported by ``prefix``
before anything of transformers' models.
"""

import sys

if "transformers.generation.candidate_generator" not in sys.modules:
    import transformers.utils as utils

    _asked = utils.is_sklearn_available
    utils.is_sklearn_available = lambda: False
    try:
        import transformers.generation.candidate_generator  # noqa: F401
    finally:
        utils.is_sklearn_available = _asked
