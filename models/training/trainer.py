"""One fine-tuning run on transformers' Trainer: labels, or labels and a teacher's logits.

`Schedule` holds the options that change what is learnt, `Runtime` those that change only what that costs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from datasets import Dataset
from sklearn.utils.class_weight import compute_class_weight
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
from transformers.trainer_utils import get_last_checkpoint

from models.training.data import Example
from models.training.evaluation import score
from models.training.layers import freeze, frozen_names, layer_list, parameter_groups
from models.training.packing import PACKED, choose_attention, collate_packs, takes_packs

ClassWeights = Literal["balanced"] | tuple[float, ...]


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
    # What a text of each class counts for in the loss; "balanced": inversely to the class's number of texts.
    class_weights: ClassWeights | None = None
    # Each layer learns at this part of the rate of the one above it.
    layer_decay: float = 1.0
    freeze: int | None = None  # the embeddings and so many first layers keep their weights; None: all learn


@dataclass(frozen=True)
class Runtime:
    """Where and how to run, without effect on what is learnt but for rounding."""

    output_dir: Path
    seed: int = 0
    cpu: bool = False
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    gradient_checkpointing: bool = False
    compile: bool = False  # torch.compile
    # "packed": batches without padding, and on CUDA in half precision torch's variable-length Flash attention.
    attn_implementation: Literal["eager", "sdpa", "packed"] | None = None
    resume: bool = False
    max_steps: int = -1  # stop after so many; below 0: after the schedule's epochs


class ClassifierTrainer(Trainer):
    """Trainer whose loss weighs the classes and adds a teacher's soft labels where a batch carries `teacher_logits`, and whose
    optimizer slows the lower layers, as the schedule says."""

    def __init__(self, *args: Any, schedule: Schedule, class_weights: torch.Tensor | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.schedule = schedule
        self.optimizer: torch.optim.Optimizer | None
        self.class_weights = None if class_weights is None else class_weights.to(self.args.device)

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None and self.schedule.layer_decay != 1:
            optimizer, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            groups = parameter_groups(
                self.model,
                learning_rate=self.args.learning_rate,
                layer_decay=self.schedule.layer_decay,
                weight_decay=self.args.weight_decay,
                decayed=self.get_decay_parameter_names(self.model),
            )
            self.optimizer = optimizer(groups, **options)
        return super().create_optimizer(model)

    def compute_loss(
        self, model: torch.nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **kwargs: Any
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        teacher_logits = inputs.pop("teacher_logits", None)
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        smoothing, weights = (self.schedule.label_smoothing, self.class_weights) if model.training else (0.0, None)
        loss = F.cross_entropy(outputs.logits.float(), labels, weight=weights, label_smoothing=smoothing)
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
    attention = model.config._attn_implementation
    check(model, train=train, schedule=schedule, runtime=runtime)
    prepare(model, schedule=schedule, runtime=runtime)
    trainer = ClassifierTrainer(
        model=model,
        args=training_arguments(schedule, runtime, rows=len(train)),
        train_dataset=encode(tokenizer, train, max_tokens=schedule.max_tokens, teacher_logits=teacher_logits),
        eval_dataset=encode(tokenizer, dev, max_tokens=schedule.max_tokens),
        data_collator=collator(tokenizer, runtime),
        compute_metrics=dev_metrics,
        callbacks=[EarlyStoppingCallback(early_stopping_patience=schedule.patience)],
        schedule=schedule,
        class_weights=weigh_classes(schedule.class_weights, train, num_labels=model.config.num_labels),
    )
    run(trainer, runtime)
    if model.config._attn_implementation != attention:  # "packed" would refuse the padded batches of an evaluation
        model.set_attn_implementation(attention)
    return model


def check(model: PreTrainedModel, *, train: Sequence[Example], schedule: Schedule, runtime: Runtime) -> None:
    """Raises ValueError for what the model, the texts or the device can't do."""
    check_precision(runtime)
    if not 0 < schedule.layer_decay <= 1:
        raise ValueError(f"layer_decay is {schedule.layer_decay}, but it must be above 0 and at most 1")
    if schedule.layer_decay != 1:
        layer_list(model)
    if schedule.freeze is not None:
        frozen_names(model, schedule.freeze)
    if runtime.attn_implementation == PACKED and not takes_packs(model):
        raise ValueError(f"{type(model).__name__} takes no packed input (_supports_packed); train it with padded batches")
    weigh_classes(schedule.class_weights, train, num_labels=model.config.num_labels)


def check_precision(runtime: Runtime) -> None:
    if runtime.precision == "fp16" and (runtime.cpu or not torch.cuda.is_available()):
        raise ValueError("precision fp16 needs a GPU, since its loss is scaled there; take bf16 on the CPU")


def prepare(model: PreTrainedModel, *, schedule: Schedule, runtime: Runtime) -> None:
    """Sets those options that the model itself carries out."""
    if runtime.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    if runtime.attn_implementation is not None:
        choose_attention(model, runtime.attn_implementation)
    if schedule.freeze is not None:
        freeze(model, schedule.freeze)


def run(trainer: Trainer, runtime: Runtime) -> None:
    """Trains, from the newest checkpoint in the output folder where `runtime.resume` says so and there is one."""
    newest = get_last_checkpoint(runtime.output_dir) if runtime.resume and runtime.output_dir.exists() else None
    trainer.train(resume_from_checkpoint=newest)


def collator(tokenizer: PreTrainedTokenizerBase, runtime: Runtime) -> Callable[[Any], Any]:
    """Makes padded batches, or packs."""
    return collate_packs if runtime.attn_implementation == PACKED else DataCollatorWithPadding(tokenizer)


def weigh_classes(weights: ClassWeights | None, train: Sequence[Example], *, num_labels: int) -> torch.Tensor | None:
    """(labels), or None where all count alike. Raises ValueError unless there is a positive weight for each label; a class
    without a text has no balanced one."""
    if weights is None:
        return None
    if weights == "balanced":
        labels, classes = np.array([example.label for example in train]), np.arange(num_labels)
        if missing := sorted(set(classes.tolist()) - set(labels.tolist())):
            raise ValueError(f"class_weights can't be balanced: no text to learn from has label {missing[0]}")
        return torch.from_numpy(compute_class_weight("balanced", classes=classes, y=labels)).float()
    if len(weights) != num_labels or min(weights) <= 0:
        raise ValueError(f"class_weights are {weights}, but there must be {num_labels}, each above 0")
    return torch.tensor(weights)


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


def training_arguments(
    schedule: Schedule, runtime: Runtime, *, rows: int, metric: str = "macro_f1", **changes: Any
) -> TrainingArguments:
    """The Trainer's arguments for a data set of `rows` rows; `metric` chooses the best checkpoint."""
    steps_per_epoch = -(-rows // schedule.batch_size)
    total_steps = int(steps_per_epoch * schedule.epochs) if runtime.max_steps < 0 else runtime.max_steps
    every = max(1, min(steps_per_epoch // schedule.evaluations_per_epoch, total_steps))
    arguments: dict[str, Any] = {
        "output_dir": str(runtime.output_dir),
        "num_train_epochs": schedule.epochs,
        "max_steps": runtime.max_steps,
        "learning_rate": schedule.learning_rate,
        "weight_decay": schedule.weight_decay,
        "warmup_steps": int(schedule.warmup_ratio * total_steps),
        "lr_scheduler_type": "linear",
        "per_device_train_batch_size": schedule.batch_size,
        "per_device_eval_batch_size": 2 * schedule.batch_size,
        "train_sampling_strategy": "group_by_length",
        "length_column_name": "length",
        "eval_strategy": "steps",
        "eval_steps": every,
        "save_strategy": "steps",
        "save_steps": every,
        "save_total_limit": 2,
        "load_best_model_at_end": True,
        "metric_for_best_model": metric,
        "logging_steps": 50,
        "seed": runtime.seed,
        "use_cpu": runtime.cpu or not torch.accelerator.is_available(),  # without a GPU bf16 must be told that it is meant
        "bf16": runtime.precision == "bf16",
        "fp16": runtime.precision == "fp16",
        "torch_compile": runtime.compile,
        "optim": "adamw_torch_fused",
        "report_to": "none",
        "dataloader_pin_memory": torch.cuda.is_available() and not runtime.cpu,
        "remove_unused_columns": False,
        "label_names": ["labels"],
    }
    return TrainingArguments(**arguments | changes)
