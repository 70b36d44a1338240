"""TriMul: the triangular multiplicative update of AlphaFold-like models, made fast on a CPU or on a GPU.

``solution`` and ``task`` import no torch; only generated programs and the verifier's processes do.
"""
