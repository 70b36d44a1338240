"""The adapter: it starts as nothing, trains alone, is taken out without a trace and comes back from disk as it was."""

import copy
import json

import pytest
import torch
from policy_space import policy as embedded
from tiny_models import ASK, SEGMENTS, gpt_oss, llama, logits, worn

from sia_nb.errors import ModelError
from sia_nb.policy import adapter, frozen
from sia_nb.policy.endpoint import EndpointPolicy

IDS = [3, 141, 59, 2653, 58, 979, 32, 384]
MAKERS = {"llama": llama, "gpt_oss": gpt_oss}


@pytest.fixture(params=MAKERS)
def policy(request):
    return MAKERS[request.param]()


def test_a_fresh_adapter_changes_nothing_and_a_trained_one_does(policy):
    base = logits(policy, IDS)
    adapter.attach(policy, rank=4)
    assert torch.equal(logits(policy, IDS), base)
    worn(policy)
    assert (logits(policy, IDS) - base).abs().max() > 0.1


def test_every_linear_layer_and_every_expert_of_the_decoder_is_adapted_and_nothing_else_trains(policy):
    decoder = policy.model.get_decoder()
    expected = sum(isinstance(m, torch.nn.Linear) for m in decoder.modules()) + sum(p.ndim == 3 for p in decoder.parameters())
    adapter.attach(policy, rank=4)
    values = adapter.parameters(policy)
    assert len(values) == 2 * expected
    assert all(v.dtype == torch.float32 and v.requires_grad for v in values)
    assert {id(p) for p in policy.model.parameters() if p.requires_grad} == {id(v) for v in values}


def test_the_seed_decides_the_adapter_and_the_global_generator_is_not_asked():
    a, b, c = llama(), llama(), llama()
    adapter.attach(a, seed=5)
    torch.manual_seed(99)
    adapter.attach(b, seed=5)
    adapter.attach(c, seed=6)
    same = [torch.equal(x, y) for x, y in zip(adapter.parameters(a), adapter.parameters(b), strict=True)]
    other = [torch.equal(x, y) for x, y in zip(adapter.parameters(a), adapter.parameters(c), strict=True)]
    assert all(same) and not any(other[0::2])


def test_the_reference_is_the_base_model_also_after_an_error(policy):
    base = logits(policy, IDS)
    with adapter.reference(policy):
        pass
    out = logits(worn(policy), IDS)
    with adapter.reference(policy):
        assert torch.equal(logits(policy, IDS), base)
    with pytest.raises(RuntimeError, match="inside"), adapter.reference(policy):
        raise RuntimeError("inside")
    assert torch.equal(logits(policy, IDS), out)
    assert all(v.requires_grad for v in adapter.parameters(policy))


def test_merging_gives_the_same_outputs_and_leaves_the_base_weights_bit_for_bit(policy):
    out = logits(worn(policy), IDS)
    before = {n: p.clone() for n, p in policy.model.named_parameters()}
    pointers = {n: p.data_ptr() for n, p in policy.model.named_parameters()}
    with adapter.merged(policy):
        assert torch.allclose(logits(policy, IDS), out, atol=1e-4)
    after = dict(policy.model.named_parameters())
    assert all(torch.equal(after[n], before[n]) and after[n].data_ptr() == pointers[n] for n in before)
    assert torch.equal(logits(policy, IDS), out)


def test_merged_sampling_draws_what_unmerged_sampling_draws():
    policy = worn(llama())
    plain = policy.sample(ASK, 12, segments=SEGMENTS, seed=1)
    with adapter.merged(policy):
        assert not any(m.weight.dtype != torch.float32 for m in policy.model.modules() if isinstance(m, torch.nn.Linear))
        fused = policy.sample(ASK, 12, segments=SEGMENTS, seed=1)
    assert [s.token_ids for s in fused] == [s.token_ids for s in plain]
    assert [s.logprob for s in fused] == pytest.approx([s.logprob for s in plain], abs=1e-4)
    assert [s.logprob for s in policy.sample(ASK, 12, segments=SEGMENTS, seed=1)] == [s.logprob for s in plain]


def test_bfloat16_weights_are_not_merged_and_the_adapter_is_float32():
    policy = llama()
    policy.model.bfloat16()
    worn(policy)
    out = logits(policy, IDS)
    assert all(v.dtype == torch.float32 for v in adapter.parameters(policy))
    with adapter.merged(policy):
        assert torch.equal(logits(policy, IDS), out)


def test_bfloat16_layers_are_near_to_float32_ones():
    exact, rounded = llama(), llama()
    rounded.model.bfloat16()
    exact.model.load_state_dict(rounded.model.state_dict())
    base = logits(exact, IDS)
    a, b = logits(worn(exact), IDS), logits(worn(rounded), IDS).float()
    assert (a - b).norm() < 0.02 * a.norm() < 0.2 * (a - base).norm()


def test_detaching_leaves_the_plain_base_model(policy):
    plain = copy.deepcopy(policy.model)
    worn(policy)
    adapter.detach(policy)
    mine, theirs = policy.model.state_dict(), plain.state_dict()
    assert list(mine) == list(theirs) and all(torch.equal(mine[n], theirs[n]) for n in mine)
    assert [type(m) for m in policy.model.modules()] == [type(m) for m in plain.modules()]
    with pytest.raises(ModelError, match="no adapter"):
        adapter.parameters(policy)


def test_what_is_saved_is_what_is_loaded_and_peft_itself_reads_it(policy, tmp_path):
    from peft import PeftModel

    plain = copy.deepcopy(policy.model)
    out = logits(worn(policy, rank=3, seed=2), IDS)
    digest = adapter.save(policy, tmp_path / "a")
    assert adapter.save(policy, tmp_path / "a") == digest  # over one that is there
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    worn(policy, rank=8, seed=3)
    adapter.load(policy, tmp_path / "a")
    assert torch.equal(logits(policy, IDS), out)
    assert adapter.save(policy, tmp_path / "b") == digest
    assert (tmp_path / "a" / adapter.CONFIG).read_bytes() == (tmp_path / "b" / adapter.CONFIG).read_bytes()
    read = PeftModel.from_pretrained(plain, tmp_path / "a").eval()
    assert torch.allclose(read(torch.tensor([IDS])).logits[0], out, atol=1e-4)


def test_the_fingerprint_is_the_base_models_alone():
    policy = llama()
    mark = adapter.fingerprint(policy)
    assert adapter.fingerprint(worn(policy)) == mark
    assert adapter.fingerprint(llama(seed=1)) != mark
    rounded = llama()
    rounded.model.bfloat16()
    assert adapter.fingerprint(rounded) == mark


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters") / "good"
    adapter.save(worn(llama()), folder)
    return folder


def damaged(saved, tmp_path, name, change):
    import shutil

    folder = shutil.copytree(saved, tmp_path / "bad")
    change(folder / name)
    return folder


@pytest.mark.parametrize("name", [adapter.WEIGHTS, adapter.CONFIG, adapter.BASE])
def test_a_missing_file_is_named(saved, tmp_path, name):
    folder = damaged(saved, tmp_path, name, lambda path: path.unlink())
    with pytest.raises(ModelError, match=rf"{name} is missing"):
        adapter.load(llama(), folder)


@pytest.mark.parametrize(
    "change", [lambda b: b[:-100], lambda b: b[:-1] + bytes([b[-1] ^ 1]), lambda b: b""], ids=["truncated", "altered", "empty"]
)
def test_damaged_weights_are_refused_and_the_policy_stays_as_it_was(saved, tmp_path, change):
    folder = damaged(saved, tmp_path, adapter.WEIGHTS, lambda path: path.write_bytes(change(path.read_bytes())))
    policy = worn(llama(), seed=9)
    out = logits(policy, IDS)
    with pytest.raises(ModelError, match=r"adapter_model.safetensors has SHA-256 \w+, expected \w+: truncated or altered"):
        adapter.load(policy, folder)
    assert torch.equal(logits(policy, IDS), out)


@pytest.mark.parametrize("name, text", [(adapter.BASE, "{"), (adapter.CONFIG, "[]"), (adapter.BASE, '{"format": 1}')])
def test_damaged_descriptions_are_refused(saved, tmp_path, name, text):
    folder = damaged(saved, tmp_path, name, lambda path: path.write_text(text))
    with pytest.raises(ModelError, match="damaged"):
        adapter.load(llama(), folder)


def test_weights_that_do_not_fit_the_declared_rank_are_refused(saved, tmp_path):
    def change(path):
        path.write_text(json.dumps({**json.loads(path.read_text()), "r": 5}))

    folder, policy = damaged(saved, tmp_path, adapter.CONFIG, change), llama()
    base = logits(policy, IDS)
    with pytest.raises(ModelError, match="does not fit the model's layers and rank 5"):
        adapter.load(policy, folder)
    assert torch.equal(logits(policy, IDS), base)


def test_a_load_that_fails_leaves_the_worn_adapter_and_its_very_parameters(policy, tmp_path):
    adapter.save(worn(policy, rank=3), tmp_path / "a")
    path = tmp_path / "a" / adapter.CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), "r": 5}))
    worn(policy, rank=4, seed=9)
    out, before = logits(policy, IDS), adapter.parameters(policy)
    with pytest.raises(ModelError, match="rank 5"):
        adapter.load(policy, tmp_path / "a")
    assert all(a is b for a, b in zip(adapter.parameters(policy), before, strict=True))
    assert torch.equal(logits(policy, IDS), out) and adapter.rank(policy) == 4
    adapter.save(policy, tmp_path / "b")
    with adapter.reference(policy):
        assert not torch.equal(logits(policy, IDS), out)


def test_another_base_models_adapter_is_refused(saved):
    with pytest.raises(ModelError, match=r"trained on the base model 'tiny llama' .* but the policy's is 'other'"):
        adapter.load(llama(seed=1, name="other"), saved)


@pytest.mark.parametrize("rank", [0, -1, 257, 2.5, True])
def test_a_rank_out_of_range_is_refused(rank):
    with pytest.raises(ModelError, match=rf"rank {rank} is out of range; expected a whole number from 1 to 256"):
        adapter.attach(llama(), rank=rank)


def test_a_served_policy_has_nothing_to_adapt():
    with pytest.raises(ModelError, match="'m' is served elsewhere"):
        adapter.attach(EndpointPolicy("http://localhost:1/v1", "m"))


def test_the_embedded_model_wears_and_drops_an_adapter():
    policy = embedded()
    before = policy.sample(ASK, 2, segments=SEGMENTS, seed=0)
    try:
        worn(policy, rank=8)
        assert policy.sample(ASK, 2, segments=SEGMENTS, seed=0)[0].logprob != before[0].logprob
        assert len(adapter.parameters(policy)) == 2 * 7 * 30
    finally:
        adapter.detach(policy)
    assert policy.sample(ASK, 2, segments=SEGMENTS, seed=0) == before


@pytest.mark.parametrize("wearing", [True, False])
def test_in_bfloat16_frozen_layers_sample_the_very_same_and_are_gone_afterwards(wearing):
    policy = llama()
    policy.model.to(torch.bfloat16)
    if wearing:
        worn(policy)
    plain = logits(policy, IDS)
    drawn = policy.sample(ASK, 4, segments=SEGMENTS, seed=1), policy.sample(ASK, 4, max_tokens=12, seed=1)
    with adapter.merged(policy):
        assert torch.equal(logits(policy, IDS), plain)
        assert (policy.sample(ASK, 4, segments=SEGMENTS, seed=1), policy.sample(ASK, 4, max_tokens=12, seed=1)) == drawn
    assert not any("forward" in vars(m) or getattr(m, "frozen", None) for m in policy.model.modules())


@pytest.mark.parametrize("wearing", [True, False])
@pytest.mark.parametrize("joined", [True, False], ids=["as oneDNN reads it", "as they are"])
def test_in_float32_frozen_layers_give_the_same_logits_and_are_gone_afterwards(wearing, joined, monkeypatch):
    policy = llama()
    if wearing:
        worn(policy)
    plain, tensors = logits(policy, IDS), [p.data_ptr() for p in policy.model.parameters()]
    if not joined:
        monkeypatch.setattr(frozen, "LARGEST", 0)
    with adapter.merged(policy):
        assert torch.allclose(logits(policy, IDS), plain, rtol=1e-4, atol=1e-5)
        assert any("forward" in vars(m) or getattr(m, "frozen", None) for m in policy.model.modules())
    assert not any("forward" in vars(m) or getattr(m, "frozen", None) for m in policy.model.modules())
    assert torch.equal(logits(policy, IDS), plain) and [p.data_ptr() for p in policy.model.parameters()] == tensors
