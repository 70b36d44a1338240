"""The numbers that the paper reports (v1, Tables 1 to 3), and the words of each task's figures.

They are drawn as hollow marks, never mixed with ours. TriMul's are rewards, 1500 / µs on an H100: they stand beside runs on
a GPU alone. A speed-up on a CPU is another measure on other hardware, for which the paper has no number.
"""

PAPER = {
    "lawbench": {"metric": "top1", "baseline": 0.135, "H": 0.500, "W+H": 0.701, "previous": 0.450},
    "denoising": {"metric": "mse_norm", "baseline": 0.048, "H": 0.241, "W+H": 0.289, "previous": 0.240, "data": "pancreas"},
    "trimul": {"metric": "speedup", "absent": "paper's scores: of an H100, not drawn"},
    "trimul_cuda": {"metric": "score", "baseline": 0.105, "H": 0.120, "W+H": 1.475, "previous": 1.292, "hardware": "H100"},
}
NAMES = {"lawbench": "LawBench", "denoising": "Denoising", "trimul": "TriMul on a CPU", "trimul_cuda": "TriMul on a GPU"}
TITLES = NAMES | {"lawbench": "LawBench (191 charges)", "denoising": "Denoising (PBMC 68k)"}  # of each task's first instance
FIGURES = {  # file and name of each task's own figure
    "lawbench": ("fig4", "Figure 4"),
    "denoising": ("fig6", "Figure 6"),
    "trimul": ("fig5_cpu", "Figure 5 on a CPU"),
    "trimul_cuda": ("fig5_cuda", "Figure 5 on a GPU"),
}
METRICS = {
    "top1": "top-1 accuracy, sealed test",
    "mse_norm": "mse_norm, sealed cells",
    "speedup": "speed-up over eager on this CPU",
    "score": "1500 / µs on this GPU",
}
SHORT = {"speedup": METRICS["speedup"], "score": "1500 / µs"}  # a metric in a table, where its key is not its name
WHOLE_SCALE = ("top1",)  # metrics drawn from 0 to 1
TIMED = ("trimul", "trimul_cuda")  # tasks whose results are of one machine, and never pooled or compared with another's
GATED = ("denoising",)  # tasks whose verdicts hold two measures, one of them a gate
PUBLISHED_GATE = 0.97  # of the published Poisson measure, whose arguments are swapped; TTT-Discover's rule
ARM_NAMES = {"baseline": "Baseline", "H": "SIA-H", "W": "SIA-W", "W+H": "SIA-W+H"}
ARMS = tuple(ARM_NAMES)


# Table 1: systems, and whether each edits the harness and the weights. None but SIA is implemented here.
SYSTEMS = (
    ("SIA", "Yes", "Yes"),
    ("Hyperagents (Zhang et al., 2026)", "Yes", "No"),
    ("Darwin Gödel Machine (Zhang et al., 2025)", "Yes", "No"),
    ("Meta-Harness (Lee et al., 2026)", "Yes", "No"),
    ("AI Scientist (Lu et al., 2024)", "Partial", "No"),
    ("Automated agentic system design (Hu et al., 2024)", "Yes", "No"),
    ("AutoResearcher (Karpathy, 2026)", "No", "No"),
    ("TTRL (Zuo et al., 2025)", "No", "Yes"),
    ("Discover-TTT (Yuksekgonul et al., 2026; Akyürek et al., 2024)", "No", "Yes"),
    ("EUREKA (Ma et al., 2023)", "Partial", "Yes"),
    ("FunSearch (Romera-Paredes et al., 2024)", "Partial", "No"),
    ("Voyager (Wang et al., 2023)", "Yes", "No"),
    ("Self-Refine (Madaan et al., 2023) / Reflexion (Shinn et al., 2023)", "Partial", "No"),
    ("STaR (Zelikman et al., 2022)", "No", "Yes"),
    ("ReAct (Yao et al., 2022)", "No", "No"),
)
SETUP = {  # Table 2, by our task: the paper's name, domain, train / test, metric, previous best, verifier
    "lawbench": ("LawBench (191-class)", "Chinese legal", "5,332 / 913", "top-1 accuracy", 0.450, "held-out test-split grader"),
    "trimul": ("AlphaEvolve TriMul", "low-level GPU", "n/a / fixed input shape", "1500 / runtime", 1.292, "H100 timing"),
    "denoising": (
        "MAGIC scRNA-seq denoising", "single-cell", "n/a / pancreas scRNA-seq", "mse_norm", 0.24, "MAGIC reference against truth",
    ),
}  # fmt: skip


def setting(task: str) -> str:
    """The data or the hardware that the paper's values are of, where it is not what ours are of."""
    return PAPER[task].get("data", "") or PAPER[task].get("hardware", "")


def has_values(task: str) -> bool:
    """Whether the paper reports anything in the metric of the task."""
    return any(arm in PAPER[task] for arm in (*ARMS, "previous"))


def title(task: str, instance: str = "") -> str:
    """How a panel of this task's instance is headed; empty: the first."""
    return f"{NAMES[task]} ({instance})" if instance else TITLES[task]
