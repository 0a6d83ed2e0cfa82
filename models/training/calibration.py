"""Scores that mean what they say: of the texts that score 0.8, eight in ten should be right.

One temperature divides the logits (Guo et al. 2017, https://arxiv.org/abs/1706.04599, section 4.2). It is folded into the weights
of the layer that gives the logits, so serving has nothing to do and no text changes its class. It is also all that such a layer
can take: where the classes' order is to stay as it is for every text, their weights can change by one common factor only.

Shapes: `S` texts, `C` classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from models.training.data import Example
from models.training.evaluation import BINS, Reliability, reliability
from models.training.inference import predict_logits

# 1% apart.
TEMPERATURES: Sequence[float] = np.geomspace(0.1, 10, 463).tolist()
# Nats. The likelihood hardly tells such temperatures apart, and the error does: on the dev sets of `sentiment-bert` 1.34 and 1.42
# differ by 0.001 nats, and by 1.7 points of error on one set.
NEGLIGIBLE = 0.002


class OutputLayerError(ValueError):
    """A model whose logits no linear layer gives, so that a temperature can't be folded in."""


@dataclass(frozen=True)
class Judged:
    """A model's logits (S, C) on a set of texts, and their true classes (S)."""

    logits_SC: torch.Tensor
    labels_S: torch.Tensor

    def loss(self, temperature: float) -> float:
        """The mean negative log-likelihood of the true classes, in nats."""
        return float(F.cross_entropy(self.logits_SC / temperature, self.labels_S))

    def reliability(self, temperature: float = 1.0) -> Reliability:
        sure_S, best_S = (self.logits_SC / temperature).softmax(-1).max(-1)
        return reliability(sure_S.numpy(), (best_S == self.labels_S).numpy())

    def half(self, start: int) -> "Judged":
        """Every other text, from the first or from the second."""
        return Judged(self.logits_SC[start::2], self.labels_S[start::2])


@dataclass(frozen=True)
class Calibration:
    """What a temperature did to the sets that it was `fitted` on, and to others.

    `held_out`: of each fitted set the error of either half, at the temperature of the other halves.
    """

    temperature: float
    fitted: Sequence[str]
    before: Mapping[str, Reliability]
    after: Mapping[str, Reliability]
    held_out: Mapping[str, tuple[float, float]]

    def __str__(self) -> str:
        """A paragraph and a Markdown table."""
        rows = [["ECE, points", "before", "after", "each half, fitted on the other halves"], ["---", "---:", "---:", "---:"]]
        for name, before in self.before.items():
            halves = " and ".join(f"{100 * error:.1f}" for error in self.held_out.get(name, ()))
            figures = (f"{100 * each.error:.1f}" for each in (before, self.after[name]))
            rows.append([f"{name} ({before.counts_B.sum():,})", *figures, halves or "not fitted on"])
        table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
        return f"""The logits were divided by {self.temperature:.3f}, fitted on {", ".join(self.fitted)}; the weights hold it.
The expected calibration error (ECE) is the mean distance of confidence and accuracy over {BINS} equal parts of confidence.

{table}
"""


def calibrate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    fit_on: Mapping[str, Sequence[Example]],
    judge_on: Mapping[str, Sequence[Example]],
) -> Calibration:
    """Fits a temperature and folds it into the model, which is in float32. Labels are the model's own classes. Raises
    OutputLayerError where it can't be folded; the model is then as before."""
    sets = {name: judged(model, tokenizer, examples) for name, examples in {**fit_on, **judge_on}.items() if examples}
    fitted = [name for name in fit_on if name in sets]
    temperature = fit_temperature([sets[name] for name in fitted])
    fold_temperature(model, tokenizer, temperature, text=fit_on[fitted[0]][0].text)
    halves = [fit_temperature([sets[name].half(start) for name in fitted]) for start in (0, 1)]
    return Calibration(
        temperature=temperature,
        fitted=fitted,
        before={name: each.reliability() for name, each in sets.items()},
        after={name: each.reliability(temperature) for name, each in sets.items()},
        held_out={
            name: (sets[name].half(0).reliability(halves[1]).error, sets[name].half(1).reliability(halves[0]).error)
            for name in fitted
        },
    )


def judged(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]) -> Judged:
    logits_SC = predict_logits(model, tokenizer, [example.text for example in examples])
    return Judged(logits_SC, torch.tensor([example.label for example in examples]))


def fit_temperature(sets: Sequence[Judged]) -> float:
    """The temperature of least loss; each set counts alike, however many texts it has. Of those whose loss is as good, the one
    whose worst set has the least calibration error."""
    losses = [fmean(each.loss(temperature) for each in sets) for temperature in TEMPERATURES]
    as_good = [temperature for temperature, loss in zip(TEMPERATURES, losses, strict=True) if loss < min(losses) + NEGLIGIBLE]
    return min(as_good, key=lambda temperature: max(each.reliability(temperature).error for each in sets))


def fold_temperature(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, temperature: float, *, text: str) -> None:
    """Divides the weights and the bias of the output layer. Raises OutputLayerError, with the weights as they were, unless this
    divides the logits of `text`."""
    layer = output_layer(model)
    assert layer.weight.dtype == torch.float32, "half precision would round twice"
    parameters = [layer.weight] if layer.bias is None else [layer.weight, layer.bias]
    before_1C, kept = predict_logits(model, tokenizer, [text]), [parameter.detach().clone() for parameter in parameters]
    with torch.no_grad():
        for parameter in parameters:
            parameter /= temperature
        if not torch.allclose(predict_logits(model, tokenizer, [text]) * temperature, before_1C, rtol=1e-3, atol=1e-3):
            for parameter, old in zip(parameters, kept, strict=True):
                parameter.copy_(old)
            raise OutputLayerError(f"{type(model).__name__}: its logits are not what its last linear layer gives")


def output_layer(model: PreTrainedModel) -> nn.Linear:
    """The layer that gives the logits: of the linear layers with an output for each label, the one that was registered last.

    >>> from transformers import BertConfig, BertForSequenceClassification
    >>> output_layer(BertForSequenceClassification(BertConfig(num_hidden_layers=1, num_labels=3)))
    Linear(in_features=768, out_features=3, bias=True)
    """
    labels = model.config.num_labels
    layers = [module for module in model.modules() if isinstance(module, nn.Linear) and module.out_features == labels]
    if not layers:
        raise OutputLayerError(f"{type(model).__name__} has no linear layer with {labels} outputs, one for each label")
    return layers[-1]
