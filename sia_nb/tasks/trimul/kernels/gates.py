"""Sigmoid in three ways, and what it gates: by the exponential, or by the hyperbolic tangent, which is one instruction on
NVIDIA hardware, of x as it is or of x / 2, where the weights were halved before."""

import triton
import triton.language as tl


@triton.jit
def sigmoid_exp(x):
    """1 / (1 + exp(-x))."""
    return tl.sigmoid(x)


@triton.jit
def sigmoid_tanh(x):
    """(1 + tanh(x / 2)) / 2 by the approximate instruction, good to 2^-11."""
    return 0.5 * tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [0.5 * x], tl.float32, True, 1) + 0.5


@triton.jit
def gated(first, second):
    """first times the sigmoid of second."""
    return first * sigmoid_exp(second)


@triton.jit
def sigmoid_halved(x):
    """The sigmoid of 2 x, likewise."""
    return 0.5 * tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [x], tl.float32, True, 1) + 0.5


@triton.jit
def gated_halved(first, second):
    """2 first times the sigmoid of 2 second: one multiplication with addition after the tangent."""
    return first * tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [second], tl.float32, True, 1) + first
