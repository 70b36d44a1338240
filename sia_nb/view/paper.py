"""The numbers that the paper reports (v1, Tables 2 and 3), as fractions. Drawn as hollow marks, never mixed with ours."""

PAPER = {
    "lawbench": {"metric": "top1", "baseline": 0.135, "H": 0.500, "W+H": 0.701, "previous": 0.450},
    "denoising": {"metric": "mse_norm", "baseline": 0.048, "H": 0.241, "W+H": 0.289, "previous": 0.240, "data": "pancreas"},
}
TITLES = {"lawbench": "LawBench (191 charges)", "denoising": "Denoising (PBMC 68k)"}  # of each task's first instance
NAMES = {"lawbench": "LawBench", "denoising": "Denoising"}
FIGURES = {"lawbench": ("fig4", "Figure 4"), "denoising": ("fig6", "Figure 6")}  # file and name of each task's own figure
METRICS = {"top1": "top-1 accuracy, sealed test", "mse_norm": "mse_norm, sealed cells"}
WHOLE_SCALE = ("top1",)  # metrics drawn from 0 to 1
GATED = ("denoising",)  # tasks whose verdicts hold two measures, one of them a gate
PUBLISHED_GATE = 0.97  # of the published Poisson measure, whose arguments are swapped; TTT-Discover's rule
ARM_NAMES = {"baseline": "Baseline", "H": "SIA-H", "W": "SIA-W", "W+H": "SIA-W+H"}
ARMS = tuple(ARM_NAMES)


def title(task: str, instance: str = "") -> str:
    """How a panel of this task's instance is headed; empty: the first."""
    return f"{NAMES[task]} ({instance})" if instance else TITLES[task]
