"""Number formats of a CPU program's products, as text. Imports nothing.

``bfloat16x3`` has three bfloat16 products in one for a product of float32: a = a₁ + a₂, b = b₁ + b₂ with a₁, b₁ in
bfloat16, and a b ≈ a₁ b₁ + a₁ b₂ + a₂ b₁, so that only the result is rounded to bfloat16 (Henry et al. 2019).
``bfloat16x2`` leaves out a₁ b₂, b being a weight, which is then rounded too.
"""

SPLIT = {"bfloat16x2": 2, "bfloat16x3": 3}
SPLIT_TEXT = '''def split(values, products, weight):
    """values with more columns: a product of two such, one of them a weight, sums so many bfloat16 products."""
    high = values.to(torch.bfloat16)
    low = (values - high).to(torch.bfloat16)
    if weight:
        return torch.cat((high, low, high) if products == 3 else (high, high), -1)
    return torch.cat((high, high, low) if products == 3 else (high, low), -1)


'''


def dtype(number_format: str) -> str:
    """The number format that is stored."""
    return "bfloat16" if number_format in SPLIT else number_format


def cast_to(value: str, number_format: str, weight: bool = False) -> str:
    """``value``, a float32 tensor, as a product in ``number_format`` wants it."""
    if number_format in SPLIT:
        return f"split({value}, {SPLIT[number_format]}, weight={weight})"
    return f"{value}.to(torch.{number_format})"
