"""The objectives side by side with TRL's own loss code: losses, gradients and advantages on the same inputs.

GRPO, RLOO, DPO and imitation: TRL's trainer is built once on a tiny random model, what would run the model hands out given numbers
instead, and TRL computes advantages and loss from them. PPO: TRL's whole training loop runs on the tiny model; what it holds at
each backward pass is read and computed again. The entropic objective is not in TRL; its loss is TRL's token-level one ("bnpo")
with a clip too wide to act.
"""

import sys
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer
from trl.experimental.ppo import PPOConfig, PPOTrainer

from sia_nb.training import advantages as adv
from sia_nb.training import objectives as obj

G, L, VOCAB, PAD = 8, 6, 64, 64  # the pad token lies outside the model's vocabulary: it is never sampled
CLIP, KL = 0.2, 0.07


def tiny(kind, **more):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
        initializer_range=0.3, pad_token_id=None, bos_token_id=0, eos_token_id=1, **more,
    )  # fmt: skip
    return kind(config)


def tokenizer():
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCAB)} | {"<pad>": PAD}, unk_token="w2"))
    return PreTrainedTokenizerFast(tokenizer_object=words, bos_token="w0", eos_token="w1", pad_token="<pad>")


def arguments(kind, folder, **more):
    return kind(
        output_dir=str(folder), use_cpu=True, bf16=False, report_to=[], per_device_train_batch_size=G, disable_tqdm=True, **more
    )


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """build(trainer class, config class, **settings) -> the trainer on the tiny model, built once for the same settings."""
    built, folder = {}, tmp_path_factory.mktemp("model")
    tiny(LlamaForCausalLM).save_pretrained(folder)  # TRL reads the reference model from where the model came

    def make(trainer, config, **settings):
        key = (trainer, repr(settings))
        if key not in built:
            data = {"prompt": ["w3 w4"] * G}
            extra = {"reward_funcs": lambda completions, **_: [0.0] * len(completions)}
            if trainer is DPOTrainer:
                data, extra = data | {"chosen": [" w5"] * G, "rejected": [" w6"] * G}, {}
            built[key] = trainer(
                model=LlamaForCausalLM.from_pretrained(folder),
                args=arguments(config, tmp_path_factory.mktemp("trl"), **settings),
                train_dataset=Dataset.from_dict(data),
                processing_class=tokenizer(),
                **extra,
            )
            built[key].model.train()
            built[key].current_gradient_accumulation_steps = 1
        return built[key]

    return make


class Batch:
    """Two groups of four rollouts, padded on the right; random log-probabilities, one of three policies each."""

    def __init__(self, seed):
        g = torch.Generator().manual_seed(seed)
        normal = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)
        self.mask = torch.arange(L) < torch.randint(1, L + 1, (G,), generator=g)[:, None]
        self.old = -2 * torch.rand(G, L, generator=g, dtype=torch.float64)
        self.logp = (self.old + 0.25 * normal(G, L)).requires_grad_()
        self.ref = self.old + 0.5 * normal(G, L)
        self.rewards = torch.rand(G, generator=g)
        self.group = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
        self.prompts = torch.full((G, 2), 3)

    def gradient(self, loss):
        return torch.autograd.grad(loss, self.logp, retain_graph=True)[0]


def hand_out(monkeypatch, trainer, *log_probabilities):
    """Let the trainer's passes through the model give these, one after the other."""
    outputs = iter(log_probabilities)
    zeros = torch.zeros(G, L, dtype=torch.float64)
    monkeypatch.setattr(trainer, "_get_per_token_logps_and_entropies", lambda *_, **__: (next(outputs), zeros, None))


def trl_loss(monkeypatch, trainer, batch, advantages, **more):
    hand_out(monkeypatch, trainer, batch.logp)
    inputs = {"prompt_ids": batch.prompts, "prompt_mask": torch.ones_like(batch.prompts), "completion_ids": batch.prompts.new_full((G, L), 5),
              "completion_mask": batch.mask.long(), "advantages": advantages, "num_items_in_batch": batch.mask.sum()}  # fmt: skip
    return trainer.compute_loss(trainer.model, inputs | more)


def trl_advantages(monkeypatch, trainer, batch, *log_probabilities):
    """What TRL computes from the batch's rewards, with its rollouts and its log-probabilities given."""
    completions = [[5] * int(n) for n in batch.mask.sum(1)]
    prompts = batch.prompts.tolist()
    texts = ["w5"] * G
    grpo = (prompts, completions, None, texts, batch.mask.sum(), None, {}, None, [])
    result = grpo if isinstance(trainer, GRPOTrainer) else (prompts, completions, texts)
    monkeypatch.setattr(trainer, "_generate", lambda _: result)
    monkeypatch.setattr(trainer, "reward_funcs", [lambda completions, **_: batch.rewards.tolist()])
    width = int(batch.mask.sum(1).max())
    hand_out(monkeypatch, trainer, *(x.detach()[:, :width] for x in log_probabilities))
    return trainer._generate_and_score_completions([{"prompt": "w3 w4"}] * G)["advantages"]


def same(ours, theirs, batch):
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-12)
    a, b = batch.gradient(ours), batch.gradient(theirs)
    assert b.abs().max() > 1e-4
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("kl", [0.0, KL])
@pytest.mark.parametrize("seed", range(3))
def test_grpo(build, monkeypatch, seed, kl):
    b = Batch(seed)
    trainer = build(GRPOTrainer, GRPOConfig, loss_type="grpo", beta=kl, epsilon=CLIP, num_generations=4)
    ours = adv.group_normalised(b.rewards, b.group)
    theirs = trl_advantages(monkeypatch, trainer, b, b.ref)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    loss, stats = obj.grpo(b.logp, b.old, b.ref, b.mask, ours, clip=CLIP, kl=kl)
    same(loss, trl_loss(monkeypatch, trainer, b, ours, old_per_token_logps=b.old, ref_per_token_logps=b.ref), b)
    metrics = trainer._metrics["train"]
    assert stats["clipped"] == pytest.approx(metrics["clip_ratio/region_mean"][-1])
    assert not kl or stats["kl"] == pytest.approx(metrics["kl"][-1])


@pytest.mark.parametrize("seed", range(3))
def test_grpo_on_the_sampling_policy(build, monkeypatch, seed):
    b = Batch(seed)
    trainer = build(GRPOTrainer, GRPOConfig, loss_type="grpo", beta=KL, epsilon=CLIP, num_generations=4)
    a = adv.group_normalised(b.rewards, b.group)
    loss, _ = obj.grpo(b.logp, None, b.ref, b.mask, a, clip=CLIP, kl=KL)
    same(loss, trl_loss(monkeypatch, trainer, b, a, ref_per_token_logps=b.ref), b)


@pytest.mark.parametrize("seed", range(3))
def test_entropic(build, monkeypatch, seed):
    b = Batch(seed)
    trainer = build(GRPOTrainer, GRPOConfig, loss_type="bnpo", beta=0.0, epsilon=1e6, num_generations=4)
    a = adv.entropic(b.rewards, b.group)
    gap = (b.old - b.ref) * b.mask
    shaped = a[:, None] + KL * (gap.sum() / b.mask.sum() - gap)
    loss, _ = obj.entropic(b.logp, b.old, b.ref, b.mask, a, kl=KL)
    same(loss, trl_loss(monkeypatch, trainer, b, shaped, old_per_token_logps=b.old), b)


@pytest.mark.parametrize("kl", [0.0, KL])
@pytest.mark.parametrize("seed", range(3))
def test_reinforce_kl_is_rloo(build, monkeypatch, seed, kl):
    """One group, as TRL's baseline for the KL is the group's others and ours the batch's. The clip is too wide to act."""
    b = Batch(seed)
    b.group = torch.zeros(G, dtype=torch.long)
    trainer = build(RLOOTrainer, RLOOConfig, beta=kl, epsilon=1e6, num_generations=G)
    ours = adv.leave_one_out(b.rewards, b.group)
    with_kl = trl_advantages(monkeypatch, trainer, b, b.old, b.ref)
    if not kl:
        torch.testing.assert_close(ours, with_kl, rtol=1e-5, atol=1e-6)
    loss, _ = obj.reinforce_kl(b.logp, b.old, b.ref, b.mask, ours.double(), kl=kl)
    theirs = trl_loss(monkeypatch, trainer, b, with_kl, old_logps=(b.old * b.mask).sum(1))
    torch.testing.assert_close(loss, theirs, rtol=1e-5, atol=1e-6)  # TRL's rewards are float32
    torch.testing.assert_close(b.gradient(loss), b.gradient(theirs), rtol=1e-5, atol=1e-6)


class Preferences:
    """Rows of tokens and the logits that a model gives them, as DPO's trainer takes them: the winners, then the losers."""

    def __init__(self, seed):
        g = torch.Generator().manual_seed(seed)
        rows, pairs = 6, 5
        self.ids = torch.randint(VOCAB, (rows, L + 1), generator=g)
        self.logits = torch.randn(rows, L + 1, VOCAB, generator=g, dtype=torch.float64, requires_grad=True)
        self.mask = torch.rand(rows, L, generator=g) < 0.7
        self.mask[:, 0] = True
        self.ref = -3 - torch.rand(rows, L, generator=g, dtype=torch.float64)
        self.winners = torch.randint(0, 3, (pairs,), generator=g)
        self.losers = torch.randint(3, rows, (pairs,), generator=g)

    def logp(self):
        return self.logits[:, :-1].log_softmax(-1).gather(-1, self.ids[:, 1:, None]).squeeze(-1)

    def trl_loss(self, trainer):
        rows = torch.cat([self.winners, self.losers])
        mask = torch.cat([torch.zeros(len(rows), 1, dtype=torch.long), self.mask[rows].long()], 1)
        ref = (self.ref * self.mask).sum(1)
        inputs = {"input_ids": self.ids[rows], "attention_mask": torch.ones_like(mask), "completion_mask": mask}
        inputs |= {"ref_chosen_logps": ref[self.winners], "ref_rejected_logps": ref[self.losers]}
        return trainer._compute_loss(lambda **_: SimpleNamespace(logits=self.logits[rows]), inputs, return_outputs=False)

    def same(self, ours, theirs):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-12)
        a, b = (torch.autograd.grad(x, self.logits, retain_graph=True)[0] for x in (ours, theirs))
        assert b.abs().max() > 1e-4
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_dpo(build, seed):
    p = Preferences(seed)
    trainer = build(DPOTrainer, DPOConfig, beta=0.3, loss_type=["sigmoid"])
    trainer.precompute_ref_logps = True  # take the reference's log-probabilities from the batch
    loss, stats = obj.dpo(p.logp(), p.ref, p.mask, p.winners, p.losers, beta=0.3)
    p.same(loss, p.trl_loss(trainer))
    assert stats["margin"] == pytest.approx(trainer._metrics["train"]["rewards/margins"][-1])
    assert stats["accuracy"] == pytest.approx(trainer._metrics["train"]["rewards/accuracies"][-1])


@pytest.mark.parametrize("seed", range(3))
def test_imitation_is_the_supervised_loss_on_the_best(build, seed):
    p = Preferences(seed)
    p.winners, p.losers = torch.tensor([1, 4]), torch.tensor([0, 2])
    trainer = build(DPOTrainer, DPOConfig, beta=0.3, loss_type=["sft"])
    trainer.precompute_ref_logps = True
    rewards = torch.tensor([0.1, 0.9, 0.3, 0.0, 0.8, 0.2])
    loss, _ = obj.bon_bc(p.logp(), p.mask, adv.best_of(rewards, torch.zeros(6, dtype=torch.long), 1 / 3))
    p.same(loss, p.trl_loss(trainer))


def test_ppo_over_a_run_of_trl(tmp_path, monkeypatch):
    """Four passes over one batch of TRL's own rollouts, at a rate high enough to reach the clips of policy and value."""
    config = arguments(
        PPOConfig, tmp_path, total_episodes=G, num_ppo_epochs=4, num_mini_batches=1, response_length=L, learning_rate=0.02,
        kl_coef=KL, cliprange=CLIP, cliprange_value=CLIP, vf_coef=0.5, gamma=0.97, lam=0.9, num_sample_generations=0,
        local_rollout_forward_batch_size=G, temperature=1.0, save_strategy="no", max_grad_norm=0.0,
    )  # fmt: skip
    data = Dataset.from_dict({"input_ids": [[3 + i, 4, 5] for i in range(G)]})
    scorers = [tiny(LlamaForSequenceClassification, num_labels=1) for _ in range(2)]
    policies = [tiny(LlamaForCausalLM) for _ in range(2)]
    with torch.no_grad():
        policies[1].lm_head.weight.add_(0.1 * torch.randn_like(policies[1].lm_head.weight))  # a KL above 0
    trainer = PPOTrainer(
        args=config, processing_class=tokenizer(), model=policies[0], ref_model=policies[1], reward_model=scorers[0],
        value_model=scorers[1], train_dataset=data, eval_dataset=data,
    )  # fmt: skip
    compared = []

    def backward(loss):
        at = sys._getframe(1).f_locals  # TRL's loop keeps all it computes in its local variables
        rows = at["micro_batch_inds"]
        mask = torch.ones(G, L, dtype=torch.bool)
        ours, returns = adv.gae(at["rewards"], at["values"], mask, 0.97, 0.9)
        torch.testing.assert_close(returns, at["returns"], rtol=1e-5, atol=1e-6)
        ours = (ours - ours.mean()) * (ours.var() + 1e-8).rsqrt()  # TRL whitens
        torch.testing.assert_close(ours, at["advantages"], rtol=1e-5, atol=1e-5)
        logp, values = at["new_logprobs"], at["vpred"]
        ours, stats = obj.ppo(
            logp, at["mb_logprobs"], mask, at["mb_advantage"], values, at["mb_values"], at["mb_return"], clip=CLIP, value_coef=0.5
        )
        torch.testing.assert_close(ours, loss, rtol=1e-5, atol=1e-6)
        for a, b in zip(*(torch.autograd.grad(x, (logp, values), retain_graph=True) for x in (ours, loss)), strict=True):
            assert b.abs().max() > 1e-5
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-8)
        assert len(rows) == G
        compared.append(stats["clipped"])
        loss.backward()

    monkeypatch.setattr(trainer.accelerator, "backward", backward)
    trainer.train()
    assert len(compared) == 4 and compared[0] == 0 and max(compared) > 0.05
