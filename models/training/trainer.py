"""One fine-tuning run on transformers' Trainer: labels, or labels and a teacher's logits."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from datasets import Dataset
from torch.nn import functional as F
from transformers import (
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
)

from models.training.data import Example
from models.training.evaluation import score


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train. `evaluations_per_epoch` sets how often early stopping looks at dev macro-F1."""

    epochs: float
    learning_rate: float
    batch_size: int = 64
    weight_decay: float = 0.01
    warmup_ratio: float = 0.06
    label_smoothing: float = 0.05
    max_tokens: int = 128
    evaluations_per_epoch: int = 4
    patience: int = 4
    # Distillation (Hinton et al. 2015, https://arxiv.org/abs/1503.02531): its share of the loss, and the temperature.
    teacher_weight: float = 0.8
    temperature: float = 2.0


@dataclass(frozen=True)
class Runtime:
    """Where and how to run, without effect on what is learnt but for rounding."""

    output_dir: Path
    seed: int = 0
    cpu: bool = False
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    gradient_checkpointing: bool = False
    resume: bool = False
    max_steps: int = -1  # stop after so many; below 0: after the schedule's epochs


class DistillationTrainer(Trainer):
    """Trainer whose loss adds the teacher's soft labels where a batch carries `teacher_logits`."""

    def __init__(self, *args: Any, schedule: Schedule, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.schedule = schedule

    def compute_loss(
        self, model: torch.nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **kwargs: Any
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        teacher_logits = inputs.pop("teacher_logits", None)
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        smoothing = self.schedule.label_smoothing if model.training else 0.0
        loss = F.cross_entropy(outputs.logits.float(), labels, label_smoothing=smoothing)
        if teacher_logits is not None and model.training:
            soft = soft_label_loss(outputs.logits, teacher_logits, temperature=self.schedule.temperature)
            loss = (1 - self.schedule.teacher_weight) * loss + self.schedule.teacher_weight * soft
        outputs["loss"] = loss
        inputs["labels"] = labels
        return (loss, outputs) if return_outputs else loss


def soft_label_loss(logits: torch.Tensor, teacher_logits: torch.Tensor, *, temperature: float) -> torch.Tensor:
    """KL(teacher || student) of the softened distributions, times temperature squared (Hinton et al. 2015, section 2)."""
    student = F.log_softmax(logits.float() / temperature, dim=-1)
    teacher = F.log_softmax(teacher_logits.float() / temperature, dim=-1)
    return F.kl_div(student, teacher, log_target=True, reduction="batchmean") * temperature**2


def fine_tune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    train: Sequence[Example],
    dev: Sequence[Example],
    schedule: Schedule,
    runtime: Runtime,
    teacher_logits: torch.Tensor | None = None,
) -> PreTrainedModel:
    """Trains until the epochs end or dev macro-F1 has not risen for `patience` evaluations; returns the best model.

    `teacher_logits` (rows of `train`, labels): soft labels to learn from. `runtime.resume` goes on from the newest
    checkpoint in `output_dir`.
    """
    if runtime.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    rows = encode(tokenizer, train, max_tokens=schedule.max_tokens, teacher_logits=teacher_logits)
    trainer = DistillationTrainer(
        model=model,
        args=training_arguments(schedule, runtime, rows=len(train)),
        train_dataset=rows,
        eval_dataset=encode(tokenizer, dev, max_tokens=schedule.max_tokens),
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=dev_metrics,
        callbacks=[EarlyStoppingCallback(early_stopping_patience=schedule.patience)],
        schedule=schedule,
    )
    trainer.train(resume_from_checkpoint=runtime.resume or None)
    assert isinstance(trainer.model, PreTrainedModel)
    return trainer.model


def encode(
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    *,
    max_tokens: int,
    teacher_logits: torch.Tensor | None = None,
) -> Dataset:
    """Columns input_ids, labels, length, and teacher_logits where given."""
    ids = tokenizer([example.text for example in examples], truncation=True, max_length=max_tokens)["input_ids"]
    columns = {"input_ids": ids, "labels": [example.label for example in examples], "length": [len(row) for row in ids]}
    if teacher_logits is not None:
        columns["teacher_logits"] = teacher_logits.tolist()
    return Dataset.from_dict(columns)


def dev_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Accuracy, macro-F1 and macro-recall of an evaluation."""
    scores = score(prediction.label_ids.tolist(), prediction.predictions.argmax(-1).tolist())
    return {"accuracy": scores.accuracy, "macro_f1": scores.macro_f1, "macro_recall": scores.macro_recall}


def training_arguments(schedule: Schedule, runtime: Runtime, *, rows: int) -> TrainingArguments:
    """The Trainer's arguments for a data set of `rows` rows."""
    steps_per_epoch = -(-rows // schedule.batch_size)
    total_steps = int(steps_per_epoch * schedule.epochs) if runtime.max_steps < 0 else runtime.max_steps
    every = max(1, min(steps_per_epoch // schedule.evaluations_per_epoch, total_steps))
    return TrainingArguments(
        output_dir=str(runtime.output_dir),
        num_train_epochs=schedule.epochs,
        max_steps=runtime.max_steps,
        learning_rate=schedule.learning_rate,
        weight_decay=schedule.weight_decay,
        warmup_steps=int(schedule.warmup_ratio * total_steps),
        lr_scheduler_type="linear",
        per_device_train_batch_size=schedule.batch_size,
        per_device_eval_batch_size=2 * schedule.batch_size,
        train_sampling_strategy="group_by_length",
        length_column_name="length",
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="macro_f1",
        logging_steps=50,
        seed=runtime.seed,
        use_cpu=runtime.cpu,
        bf16=runtime.precision == "bf16",
        fp16=runtime.precision == "fp16",
        optim="adamw_torch_fused",
        report_to="none",
        dataloader_pin_memory=torch.cuda.is_available() and not runtime.cpu,
        remove_unused_columns=False,
        label_names=["labels"],
    )
