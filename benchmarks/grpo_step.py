"""One GRPO step of the embedded model, ours beside TRL's GRPOTrainer: same prompt, group size, lengths, LoRA, optimiser.

    python benchmarks/grpo_step.py [--rows 32] [--threads 1] [--peer-python PYTHON] [--peers float32 bfloat16 unsloth] [--limit S]

A step is forward, backward and optimiser; sampling the group is timed apart. Each runs in a process of its own, on the
GPU where there is one, and reports its peak memory. Ours samples grammar-masked specs in the number format that it
measures to be the faster; TRL samples freely, made to write as many tokens a row as ours have on average, in the formats
named. TRL goes without gradient checkpointing, in micro-batches of 4 rows on a CPU and of 32 on a GPU, its quickest way
that fits the memory. The peer ``unsloth`` (GPU only, the extra gpu) is unsloth's model, LoRA and patched GRPOTrainer in
bfloat16, also without gradient checkpointing; its GRPOConfig's own optimiser is an 8-bit one, so TRL's is named for both.
``--peer-python`` names an interpreter that has trl, where this one has not. A peer that fails, or that takes longer than
``--limit``, is left out, and the exit code says so.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
STEPS = {"cpu": 3, "cuda": 6}  # the first warms up; the least of the others counts
LORA = dict(r=32, lora_alpha=32)
RATE = 3e-4


def ours(job: dict[str, Any]) -> dict[str, Any]:
    """Times of our step, and the prompt and length for the peer."""
    sys.path[:0] = [str(HERE.parents[1]), str(HERE.parents[1] / "tests")]
    import torch
    from policy_space import SPACE, messages

    from sia_nb.policy import adapter
    from sia_nb.policy.model import load
    from sia_nb.store import data_dir
    from sia_nb.training import objectives
    from sia_nb.training.forward import Group, step

    policy = load(data_dir=data_dir(), dtype="auto", threads=job["threads"])
    adapter.attach(policy, rank=LORA["r"])
    optimiser = torch.optim.AdamW(adapter.parameters(policy), lr=RATE)
    advantages = torch.linspace(-1.5, 1.5, job["rows"], device=policy.model.device)
    chat, segments = messages(), tuple(map(tuple, SPACE.segments()))
    sampling, stepping = [], []
    for seed in range(STEPS[policy.model.device.type]):
        policy.forget()
        start = time.perf_counter()
        with adapter.merged(policy):
            samples = policy.sample(chat, job["rows"], segments=segments, seed=seed)
        sampling.append(time.perf_counter() - start)
        group = Group(policy.prompt_ids(chat), [s.token_ids for s in samples], segments)

        def loss(scored: list[Any]) -> tuple[Any, dict[str, float]]:
            (s,) = scored
            return objectives.grpo(s.logp, s.logp.detach(), None, s.mask, advantages, clip=0.2, kl=0.0)

        start = time.perf_counter()
        step(policy, [group], loss)
        optimiser.step()
        optimiser.zero_grad()
        _wait()
        stepping.append(time.perf_counter() - start)
    return {
        "prompt": policy.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True),
        "prompt_tokens": len(group.prompt_ids),
        "length": round(sum(map(len, group.rows)) / len(group.rows)),
        "dtype": str(policy.model.dtype).removeprefix("torch."),
        "loader": "unsloth" if hasattr(policy.model.get_decoder(), "_unsloth_fast_path") else "transformers",
        **_result(sampling, stepping),
    }


def trl(job: dict[str, Any]) -> dict[str, Any]:
    """Times of TRL's step, or of unsloth's own, which is TRL's trainer as unsloth rewrites it."""
    if job["dtype"] == "unsloth":
        from unsloth import FastLanguageModel  # before trl, which it rewrites
    try:
        from trl import GRPOConfig, GRPOTrainer
    except ImportError as error:
        raise SystemExit(
            f"benchmark: {sys.executable} has no usable trl ({error}). Install `trl==1.8.0` and `datasets` there, or name an "
            "interpreter that has them: --peer-python PYTHON."
        ) from error
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

    torch.set_num_threads(job["threads"])
    sampling, begun, stepping = [], [0.0], []

    class Timed(GRPOTrainer):
        def _generate_and_score_completions(self, inputs: Any) -> Any:
            start = time.perf_counter()
            out = super()._generate_and_score_completions(inputs)
            _wait()
            sampling.append(time.perf_counter() - start)
            return out

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            begun[0] = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            _wait()
            stepping.append(time.perf_counter() - begun[0] - sampling[-1])

    half = job["dtype"] != "float32"
    micro = min(job["rows"], 32 if torch.cuda.is_available() else 4)
    steps = STEPS["cuda" if torch.cuda.is_available() else "cpu"]
    lora: Any = LoraConfig(**LORA, target_modules="all-linear", task_type="CAUSAL_LM")
    if job["dtype"] == "unsloth":
        room = job["prompt_tokens"] + job["length"] + 8
        how = dict(dtype=torch.bfloat16, load_in_4bit=False, use_exact_model_name=True, local_files_only=True)
        model, tokenizer = FastLanguageModel.from_pretrained(job["model"], max_seq_length=room, max_lora_rank=LORA["r"], **how)
        model, lora = FastLanguageModel.get_peft_model(model, **LORA, use_gradient_checkpointing=False), None
    else:
        model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=getattr(torch, job["dtype"]))
        tokenizer = AutoTokenizer.from_pretrained(job["model"])
    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder, max_steps=steps, per_device_train_batch_size=micro, gradient_accumulation_steps=job["rows"] // micro,
            generation_batch_size=job["rows"], num_generations=job["rows"], max_completion_length=job["length"],
            generation_kwargs={"min_new_tokens": job["length"]}, temperature=1.0, beta=0.0, learning_rate=RATE, loss_type="grpo",
            optim="adamw_torch_fused", use_cpu=not torch.cuda.is_available(), bf16=half, gradient_checkpointing=False, report_to=[], save_strategy="no",
            logging_strategy="no", disable_tqdm=True, dataloader_pin_memory=False,
        )  # fmt: skip
        Timed(
            model=model,
            reward_funcs=lambda completions, **_: [float(i) for i in range(len(completions))],
            args=config,
            train_dataset=Dataset.from_dict({"prompt": [job["prompt"]] * steps}),
            processing_class=tokenizer,
            peft_config=lora,
            callbacks=[Clock()],
        ).train()
    return _result(sampling, stepping)


def _wait() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _result(sampling: list[float], stepping: list[float]) -> dict[str, Any]:
    import torch

    cuda = torch.cuda.is_available()
    peak = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "step": min(stepping[1:]),
        "sampling": min(sampling[1:]),
        "steps": [round(s, 4) for s in stepping],
        "peak_memory_gb": round(peak / 1e9, 2),
        "device": torch.cuda.get_device_name() if cuda else "CPU",
    }


def _child(python: str, who: str, job: dict[str, Any], name: str, limit: float | None) -> dict[str, Any]:
    """Run ``who`` in a process of its own, read its figures and print them under ``name``."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "result.json"
        threads = {"OMP_NUM_THREADS": str(job["threads"]), "MKL_NUM_THREADS": str(job["threads"])}
        call = [python, str(HERE), "--child", who, json.dumps(job), str(path)]
        try:
            done = subprocess.run(call, env={**os.environ, **threads, "HF_HUB_OFFLINE": "1"}, timeout=limit)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"benchmark: {name} took longer than {limit:g} s.") from None
        if done.returncode:
            raise RuntimeError(f"benchmark: {name} failed (exit {done.returncode}); its message stands above.")
        row: dict[str, Any] = json.loads(path.read_text())
    times = f"step {row['step']:7.3f} s  sampling {row['sampling']:7.2f} s  peak {row['peak_memory_gb']} GB"
    print(f"{name:14} {times}  steps {row['steps']}", flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description="One GRPO step, ours beside TRL's.")
    parser.add_argument("--rows", type=int, default=32, help="rollouts in the group, a multiple of 4")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peer-python", default=sys.executable, help="an interpreter that has trl")
    parser.add_argument("--peers", nargs="*", default=["float32", "bfloat16"], help="TRL's number formats, and unsloth")
    parser.add_argument("--limit", type=float, help="seconds that each may take, starting up included; unlimited by default")
    given = parser.parse_args()
    sys.path[:0] = [str(HERE.parent)]
    from _common import commit, hardware, versions, write

    from sia_nb.policy.model import FOLDER, fetch
    from sia_nb.store import data_dir

    fetch(data_dir())
    job = {"rows": given.rows, "threads": given.threads}
    try:
        mine = _child(sys.executable, "ours", job, "ours", given.limit)
    except RuntimeError as error:
        raise SystemExit(str(error)) from None
    job |= {"prompt": mine.pop("prompt"), "length": mine["length"], "prompt_tokens": mine["prompt_tokens"]}
    job["model"] = str(data_dir() / "models" / FOLDER)
    named = {peer: "unsloth" if peer == "unsloth" else f"TRL {peer}" for peer in given.peers}
    peers, failed = {}, []
    for peer, name in named.items():
        try:
            peers[name] = _child(given.peer_python, "trl", {**job, "dtype": peer}, name, given.limit)
        except RuntimeError as error:
            failed.append(name)
            print(error, file=sys.stderr, flush=True)
    fastest = min((p["step"] for p in peers.values()), default=float("nan"))
    what = f"one GRPO step, {given.rows} rollouts of {mine['length']} tokens, prompt of {mine['prompt_tokens']} tokens, LoRA r=32"
    write(
        "grpo_step" if mine["device"] == "CPU" else "grpo_step_gpu",
        what=f"{what}, ours in {mine['dtype']}: forward, backward, optimiser; sampling beside it",
        unit="s",
        ours=mine["step"],
        peers={name: p["step"] for name, p in peers.items()},
        ratio=fastest / mine["step"],
        ours_detail=mine,
        peers_detail=peers,
        hardware=f"{hardware() if mine['device'] == 'CPU' else mine['device']}, {given.threads} threads",
        versions={
            **versions("torch", "transformers", "peft"),
            **{p: _version(given.peer_python, p) for p in ("trl", *(["unsloth"] if "unsloth" in given.peers else []))},
        },
        commit=commit(),
        command=f"python benchmarks/grpo_step.py --rows {given.rows} --threads {given.threads} --peers {' '.join(given.peers)}",
    )
    if failed:
        raise SystemExit(f"benchmark: without {', '.join(failed)}; the messages stand above.")


def _version(python: str, package: str) -> str:
    code = f"from importlib.metadata import version; print(version('{package}'))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True).stdout.strip() or "none"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        result = {"ours": ours, "trl": trl}[sys.argv[2]](json.loads(sys.argv[3]))
        Path(sys.argv[4]).write_text(json.dumps(result))
    else:
        main()
