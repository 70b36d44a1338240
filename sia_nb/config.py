"""What a run is: ``RunConfig`` and the profiles it starts from. Validated and frozen; plain JSON on disk."""

from __future__ import annotations

from typing import Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .errors import ConfigError, nearest

ARMS = ("H", "W", "W+H")
CONTROLS = {"random": "uniform draws", "local": "(1+1) local search", "best_of_n": "best of N, untrained policy"}
AGENTS = ("playbook", "claude", "openai_compatible", "replay")


class RunConfig(BaseModel):
    """One run of the loop. Budgets are per step (one execution of a scaffold); the report adds them up."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    task: str = Field("lawbench", description="which task to run")
    instance: str = Field("", description="which instance of the task; empty for the paper's")
    profile: str = Field("cpu", description="the profile the defaults came from")
    arm: Literal["H", "W", "W+H"] = Field("H", description="which levers the Feedback-Agent may pull: harness, weights, both")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="seeds the split, the sampling and the agents")
    steps: int = Field(8, ge=1, le=500, description="step budget: how many scaffolds are executed, A_1 included")
    verifier_calls: int = Field(28, ge=1, le=100_000, description="verifier calls a step")
    tokens: int = Field(20_000, ge=1, le=100_000_000, description="sampled tokens a step")
    seconds: float = Field(
        900.0,
        gt=0,
        le=7 * 86400,
        description="wall-clock cap of a step's execution, in seconds; training may take weight_share of as much before it",
    )
    dollars: float = Field(20.0, ge=0, le=100_000, description="cap on the agents' cost of the whole run, in US dollars")
    prices: str = Field("", description="JSON file of language models' prices, laid over the kit's dated table (budget.PRICES)")
    agent: Literal["playbook", "claude", "openai_compatible", "replay"] = Field(
        "playbook", description="Meta- and Feedback-Agent"
    )
    agent_model: str = Field("", description="the agents' language model; empty for the kind's default")
    agent_url: str = Field("", description="base URL of the openai_compatible agents' server")
    agent_key: str = Field("OPENAI_API_KEY", description="environment variable that holds the openai_compatible agents' key")
    replay_of: str = Field("", description="run folder whose recorded agent calls are repeated (agent replay)")
    policy: str = Field("smollm2-135m", description="the policy: the embedded model, a folder or a Hugging Face name")
    policy_url: str = Field("", description="base URL of an OpenAI-compatible server that serves the policy; empty for local")
    policy_key: str = Field("POLICY_API_KEY", description="environment variable that holds the policy server's key")
    weight_share: float = Field(
        0.75, gt=0, le=1, description="share of a weight step's verifier calls, tokens and seconds that training may spend"
    )
    algorithm: str = Field("", description="fixes the weight updates' algorithm; empty: the Feedback-Agent chooses")
    group_size: int = Field(0, ge=0, le=4096, description="fixes the rollouts of a group; 0: the Feedback-Agent chooses")
    learning_rate: float = Field(0.0, ge=0, le=0.01, description="fixes the learning rate; 0: the Feedback-Agent chooses")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="number format of the local policy; auto: the faster here, measured once and kept in run.json"
    )
    threads: int = Field(1, ge=1, le=512, description="threads of the local policy; part of what makes a run repeat bit for bit")
    devices: int = Field(
        1,
        ge=1,
        le=64,
        description="GPUs that a weight update is spread over; where there is no GPU, processes of so many threads",
    )
    control: Literal["", "shuffled_rewards"] = Field(
        "",
        description="a control of the weights lever: shuffled_rewards permutes the rewards that are learned from within each group",
    )
    unsafe_no_sandbox: bool = Field(False, description="run model-written code without a sandbox; do not")


PROFILES: dict[str, dict[str, Any]] = {
    "smoke": {"steps": 3, "verifier_calls": 8, "tokens": 4_000, "seconds": 300.0},
    "cpu": {"steps": 8, "verifier_calls": 26, "tokens": 12_000, "seconds": 900.0},
    "gpu": {"steps": 16, "verifier_calls": 64, "tokens": 200_000, "seconds": 3600.0},
    "paper": {
        "steps": 24,
        "verifier_calls": 256,
        "tokens": 4_000_000,
        "seconds": 4 * 3600.0,
        "dollars": 500.0,
        "agent": "claude",
        "policy": "openai/gpt-oss-120b",
        "policy_url": "http://localhost:8000/v1",
    },
}
TASK_BUDGETS: dict[tuple[str, str], dict[str, Any]] = {  # where a task's verdicts cost little, a profile has more; or fewer
    ("cpu", "denoising"): {"verifier_calls": 40},
    ("cpu", "trimul"): {"verifier_calls": 16},
}
PROFILE_NOTES = {
    "smoke": "three steps of 8 verifier calls: does everything work here?",
    "cpu": "the default: 8 steps of 26 verifier calls on a laptop, offline",
    "gpu": "16 steps of 64 verifier calls with a larger local policy",
    "paper": "Claude as the agents, gpt-oss-120b served by vLLM as the policy",
}


def make_config(profile: str = "cpu", **overrides: Any) -> RunConfig:
    """The profile's defaults, the task's own budget where it has one, and ``overrides`` laid over them.

    Raises:
        ConfigError: an unknown profile, parameter, task or instance, a wrong type or a value out of range; the message
            names the parameter, the value, what was expected and the nearest known name.
    """
    if profile not in PROFILES:
        raise ConfigError(
            f"profile: '{profile}' is not known; known profiles: {', '.join(PROFILES)}.{nearest(profile, PROFILES)}"
        )
    own = TASK_BUDGETS.get((profile, overrides.get("task", RunConfig.model_fields["task"].default)), {})
    return validate({**PROFILES[profile], **own, "profile": profile, **overrides})


def validate(values: dict[str, Any]) -> RunConfig:
    """``values`` as a RunConfig.

    Raises:
        ConfigError: as ``make_config``.
    """
    from .tasks import REGISTRY, get_task
    from .tasks.base import find_instance

    known = RunConfig.model_fields
    for name in values:
        if name not in known:
            raise ConfigError(f"parameter '{name}' is not known.{nearest(name, known)} Known: {', '.join(known)}.")
    values = {k: float(v) if _is_int(v) and known[k].annotation is float else v for k, v in values.items()}
    try:
        config = RunConfig(**values)
    except ValidationError as error:
        raise ConfigError(_explain(error)) from None
    if config.task not in REGISTRY:
        raise ConfigError(
            f"task: '{config.task}' is not known; known tasks: {', '.join(sorted(REGISTRY))}.{nearest(config.task, REGISTRY)}"
        )
    find_instance(get_task(config.task), config.instance)
    for name in ("agent_url", "policy_url"):
        if "@" in urlsplit(getattr(config, name)).netloc:
            raise ConfigError(
                f"{name}: holds a user name or password, which would stand in the run folder; put the key into an environment "
                f"variable and its name into {name.removesuffix('_url')}_key"
            )
    if "W" in config.arm and config.policy_url:
        raise ConfigError(
            f"arm: '{config.arm}' trains the policy's weights, but policy_url names a server ({config.policy_url}), whose weights "
            "cannot be changed from here; use arm H, or a local policy"
        )
    if config.control and "W" not in config.arm:
        raise ConfigError(
            f"control: '{config.control}' changes what is trained on, but arm '{config.arm}' trains nothing; use W or W+H"
        )
    if config.algorithm or "W" in config.arm:
        from .training.hyper import ALGORITHMS, make_hyper

        fixed = {k: getattr(config, k) for k in ("group_size", "learning_rate") if getattr(config, k)}
        for algorithm in (config.algorithm,) if config.algorithm else ALGORITHMS:
            make_hyper(algorithm, **fixed)
    if config.agent == "replay" and not config.replay_of:
        raise ConfigError("replay_of: empty, but agent is 'replay'; expected the folder of the run to repeat")
    if config.agent == "openai_compatible" and not (config.agent_url and config.agent_model):
        raise ConfigError("agent 'openai_compatible' needs agent_url (for example http://localhost:8000/v1) and agent_model")
    return config


def parse_value(name: str, text: str) -> Any:
    """The value of parameter ``name`` written as ``text`` on a command line.

    Raises:
        ConfigError: the parameter is not known or the text is not of its type.
    """
    known = RunConfig.model_fields
    if name not in known:
        raise ConfigError(f"parameter '{name}' is not known.{nearest(name, known)} Known: {', '.join(known)}.")
    kind = known[name].annotation
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ConfigError(f"{name}: '{text}' is not true or false")
        return text.lower() == "true"
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            raise ConfigError(f"{name}: '{text}' is not {'a whole number' if kind is int else 'a number'}") from None
    return text


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _explain(error: ValidationError) -> str:
    lines = []
    for e in error.errors():
        name = ".".join(str(p) for p in e["loc"])
        expected = e["msg"][0].lower() + e["msg"][1:]
        choices = get_args(RunConfig.model_fields[name].annotation) if name in RunConfig.model_fields else ()
        hint = nearest(str(e["input"]), choices) if choices else ""
        lines.append(f"{name}: {e['input']!r} ({type(e['input']).__name__}) is not valid: {expected}.{hint}")
    return " ".join(lines)
