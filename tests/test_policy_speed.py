"""The number format is chosen by what was measured here, once for each device, thread count and size."""

import json
from types import SimpleNamespace

import pytest
import torch
from tiny_models import llama

from sia_nb.errors import ModelError
from sia_nb.policy import speed
from sia_nb.policy.model import FOLDER, load
from sia_nb.policy.prefix import check
from sia_nb.policy.speed import fastest

CPU = torch.device("cpu")


def test_both_formats_are_measured_once_and_the_faster_one_is_taken(tmp_path, monkeypatch):
    cache, config = tmp_path / "new" / "speed.json", llama().model.config
    dtype = fastest(cache, config, CPU)
    ((key, seconds),) = json.loads(cache.read_text()).items()
    assert set(seconds) == {"float32", "bfloat16"} and min(seconds.values()) > 0 and seconds[dtype] == min(seconds.values())
    monkeypatch.setattr(speed, "_seconds", lambda *_: pytest.fail("measured again"))
    for name in seconds:
        cache.write_text(json.dumps({key: {n: 1.0 + (n != name) for n in seconds}}))
        assert fastest(cache, config, CPU) == name


def test_another_size_or_a_damaged_file_is_measured_anew(tmp_path, monkeypatch):
    cache, measured = tmp_path / "speed.json", []
    monkeypatch.setattr(speed, "_seconds", lambda shape, dtype, device: measured.append(dtype) or float(dtype == torch.float32))
    cache.write_text("{")
    assert fastest(cache, llama().model.config, CPU) == "bfloat16" and len(measured) == 2
    fastest(cache, llama(hidden_size=96).model.config, CPU)
    assert len(measured) == 4 and len(json.loads(cache.read_text())) == 2


def test_a_model_of_unknown_size_is_told():
    with pytest.raises(ModelError, match="cannot measure such a model. Name float32 or bfloat16"):
        fastest("", SimpleNamespace(get_text_config=lambda: SimpleNamespace()), CPU)


def test_auto_loads_the_measured_format(embedded_model, tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / FOLDER).symlink_to(embedded_model / "models" / FOLDER)
    chosen = load(data_dir=tmp_path, dtype="auto").model.dtype
    seconds = next(iter(json.loads((tmp_path / "models" / "speed.json").read_text()).values()))
    assert str(chosen) == f"torch.{min(seconds, key=seconds.get)}"


def test_a_model_whose_attention_does_not_ask_us_is_seen():
    policy = llama()
    check(policy.model)
    layer = policy.model.model.layers[1]
    layer.forward = lambda hidden_states, **_: hidden_states
    with pytest.raises(ModelError, match="has layers without an attention"):
        check(policy.model)
