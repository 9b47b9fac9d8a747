"""Hugging Face's Trainer: groups, rates, logs, resume; PEFT's adapters in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lwexp import make_plan

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from transformers import BertConfig, BertForSequenceClassification, TrainingArguments

from lwexp.integrations.transformers import LayerwiseTrainer

STEPS = 8
PLAN: dict[str, Any] = {"grouping": "depth_index", "mult": 0.5}


def network() -> BertForSequenceClassification:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    return BertForSequenceClassification(BertConfig(**sizes, vocab_size=20, num_labels=3, hidden_dropout_prob=0.1))


def rows(count: int = 32) -> list[dict[str, Any]]:
    random = torch.Generator().manual_seed(0)
    ids = torch.randint(20, (count, 6), generator=random)
    return [{"input_ids": row, "labels": torch.tensor(i % 3)} for i, row in enumerate(ids)]


def trainer(folder: Path, layerwise: dict[str, Any], model: Any = None, **options: Any) -> LayerwiseTrainer:
    arguments = TrainingArguments(
        str(folder), per_device_train_batch_size=4, num_train_epochs=1, learning_rate=0.01, logging_steps=1,
        report_to=[], use_cpu=True, disable_tqdm=True, **{"save_strategy": "no", **options},
    )  # fmt: skip
    data = rows()
    return LayerwiseTrainer(
        model or network(), arguments, layerwise=layerwise, train_dataset=data, eval_dataset=data[:4]
    )


def logged(run: LayerwiseTrainer) -> list[list[float]]:
    names = [f"lr/{label}" for label in run.plan.labels]
    return [[entry[name] for name in names if name in entry] for entry in run.state.log_history if "loss" in entry]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_every_rate_of_every_step_is_used_and_logged(tmp_path: Path, optimizer: str) -> None:
    settings = {**PLAN, "optimizer": optimizer, "policy": "cosine", "policy_options": {"warmup_steps": 2}}
    run = trainer(tmp_path, settings, weight_decay=0.1)
    run.train()
    plan = make_plan(network(), lr=0.01, **PLAN)
    assert run.plan.hash == plan.hash
    assert logged(run) == plan.lr_table("cosine", steps=STEPS, warmup_steps=2).tolist()
    assert run.optimizer.param_groups[0]["weight_decay"] == 0.1
    heads = [entry["learning_rate"] for entry in run.state.log_history if "loss" in entry]
    assert heads == [row[0] for row in logged(run)]


def test_a_resumed_training_has_the_numbers_of_one_that_never_stopped(tmp_path: Path) -> None:
    settings = {**PLAN, "optimizer": "adamw", "policy": "cosine"}
    options: dict[str, Any] = {"save_strategy": "steps", "save_steps": 3}
    whole = trainer(tmp_path, settings, **options)
    whole.train()
    resumed = trainer(tmp_path, settings, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert logged(resumed)[-5:] == logged(whole)[-5:]
    for ours, theirs in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_mixed_precision_with_clipped_gradients(tmp_path: Path) -> None:
    run = trainer(tmp_path, {**PLAN, "policy": "cosine"}, bf16=True, max_grad_norm=0.1)
    before = [p.clone() for p in run.model.parameters()]
    run.train()
    assert logged(run) == run.plan.lr_table("cosine", steps=STEPS).tolist()
    assert not any(torch.equal(p, q) for p, q in zip(run.model.parameters(), before, strict=True))


def test_a_plateau_falls_by_the_evaluations(tmp_path: Path) -> None:
    """Row 10; the warm-up counts steps all the while. No evaluation is better than the first one by this much."""
    policy = {"metric": "eval_loss", "patience": 1, "factor": 0.5, "warmup_steps": 2, "threshold": 0.99}
    settings = {**PLAN, "policy": "plateau", "policy_options": policy}
    run = trainer(tmp_path, settings, eval_strategy="steps", eval_steps=2)
    run.train()
    head = [row[0] for row in logged(run)]
    assert head == pytest.approx([0.005, 0.01, 0.01, 0.01, 0.01, 0.01, 0.005, 0.005])


def test_adapters_of_peft_with_the_head_frozen(tmp_path: Path) -> None:
    """`index_from=trained`: the first group that is trained has the base rate."""
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(
        network(), peft.LoraConfig(r=2, target_modules=["query", "value"], init_lora_weights="gaussian")
    )
    run = trainer(tmp_path, {**PLAN, "index_from": "trained", "policy": "cosine"}, model)
    before = {name: p.clone() for name, p in model.named_parameters()}
    run.train()
    trained = [group for group in run.plan.groups if group.optimizer_names]
    assert [group.lr for group in trained] == [0.01, 0.005]
    assert all("lora_" in name for group in trained for name in group.optimizer_names)
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {name for group in trained for name in group.optimizer_names}
    assert logged(run)[0] == [0.01, 0.005]


def test_the_plain_trainer_takes_optimizer_and_scheduler(tmp_path: Path) -> None:
    """Nothing is needed but for the log of all rates."""
    from transformers import Trainer

    model = network()
    plan = make_plan(model, lr=0.01, **PLAN)
    optimizer = plan.optimizer("adamw")
    scheduler = plan.scheduler(optimizer, "cosine", steps=STEPS)
    arguments = TrainingArguments(
        str(tmp_path), per_device_train_batch_size=4, num_train_epochs=1, report_to=[], use_cpu=True,
        save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    Trainer(model, arguments, train_dataset=rows(), optimizers=(optimizer, scheduler)).train()
    assert scheduler.last_epoch == STEPS
