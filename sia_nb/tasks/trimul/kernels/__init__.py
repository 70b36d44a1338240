"""Triton kernels of TriMul's CUDA programs, one file each; ``compile_cuda`` copies their text, nothing imports them here.

They need triton only where a generated program runs. Every size that a kernel masks may be any positive number.
"""
