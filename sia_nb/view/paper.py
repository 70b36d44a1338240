"""The numbers that the paper reports (v1, Tables 2 and 3), as fractions. Drawn as hollow marks, never mixed with ours."""

PAPER = {
    "lawbench": {"metric": "top1", "baseline": 0.135, "H": 0.500, "W+H": 0.701, "previous": 0.450},
}
TITLES = {"lawbench": "LawBench (191 charges)"}
METRICS = {"top1": "top-1 accuracy, sealed test"}
ARM_NAMES = {"baseline": "Baseline", "H": "SIA-H", "W": "SIA-W", "W+H": "SIA-W+H"}
ARMS = tuple(ARM_NAMES)
