"""sia_nb: self-improving agents with two levers, the harness and the weights.

Importing the package is light: no torch, scanpy, scikit-learn or transformers is
loaded until a phase needs it.
"""

__version__ = "0.1.0"
