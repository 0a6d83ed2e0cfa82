"""What a model gives for real texts, as a user of transformers gets it: each alone, by the plain model in float32, on the CPU.

A way of serving is held against that before it serves: `Proof.difference` says how far its logits are off, `Proof.tolerance` how
far they may be.
"""

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from service.engine.faults import is_out_of_memory
from service.engine.packs import FloatArray, TextIds
from service.engine.trials import LENGTHS, MOST_TOKENS, PAIR, Inputs, Trial, TrialTexts
from service.served.catalog import CatalogError, ServedModel

log = logging.getLogger("valence.worker")
# Of a logit, where it is larger than 1 of the largest one: float32 sums in another order.
TOLERANCE = 1e-4
# In half precision: so many times what transformers' own forward in that type is off.
OWN_ERRORS = 3.0
# int8, of the largest logit: more than rounding weights and inputs to 8 bits should change of one. On the shipped checkpoints it
# changes 0.05 at the most.
INT8_SUSPECT = 0.5
DEFAULT_NAME = "LABEL_{}"
Logits = Callable[[Sequence[TextIds]], FloatArray]


class Takes:
    """Which inputs a model is given: what its tokenizer returns and its forward takes. `types`: token types are sent."""

    def __init__(self, model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> None:
        parameters = inspect.signature(model.forward).parameters
        any_name = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        returned = {"input_ids", "attention_mask", *tokenizer.model_input_names}
        self._names = {name for name in returned if any_name or name in parameters}
        self.mask = "attention_mask" in self._names
        self.types = "token_type_ids" in returned and "token_type_ids" in parameters

    def rows(self, inputs: Inputs) -> dict[str, torch.Tensor]:
        """Those of one text, (1, L)."""
        return {name: torch.tensor([row]) for name, row in inputs.items() if name in self._names}


class Proof:
    """The texts that a model was tried out on, and its logits for them. `max_length`: the longest text that it really takes;
    `labels`: a name for each logit."""

    def __init__(self, served: ServedModel, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """`model`: as `from_pretrained` gives it, in float32 on the CPU. CatalogError where it gives no scores for real texts, or
        not the same ones twice."""
        self._kind = type(model).__name__
        self._path = served.path
        self._failure = ""
        self.takes = Takes(model, tokenizer)
        texts = TrialTexts(tokenizer)
        self.max_length, longest = self._limit(model, texts, served.max_length)
        lengths = [length for length in LENGTHS if length < self.max_length]
        asked = [longest, texts.pair(min(PAIR, self.max_length)), *(texts.of_length(n, seed=i) for i, n in enumerate(lengths))]
        found = [(trial, self._alone(model, trial)) for trial in asked if trial is not None]
        self.trials = [trial for trial, row in found if row is not None]
        if not self.trials:
            raise CatalogError(f"{self._path}: {self._kind} gave no score for any of {len(found)} real texts: {self._failure}")
        self.expected = np.concatenate([row for _, row in found if row is not None])
        self._check(model)
        self.labels = self._named(served)
        self._own_error = 0.0

    @property
    def texts(self) -> list[TextIds]:
        """As the engine gets them."""
        return [trial.text for trial in self.trials]

    def measure_own_error(self, model: PreTrainedModel, device: torch.device) -> None:
        """`model`: as `from_pretrained` gives it, in half precision. How far its own logits are off sets the tolerance."""
        alone = np.concatenate([self._forward(model, trial, device) for trial in self.trials])
        self._own_error = float(np.abs(alone - self.expected).max())

    @property
    def scale(self) -> float:
        """The largest logit, or 1 where all are smaller."""
        return max(1.0, float(np.abs(self.expected).max()))

    @property
    def tolerance(self) -> float:
        """How far a logit may be off."""
        return max(TOLERANCE * self.scale, OWN_ERRORS * self._own_error)

    def difference(self, logits: Logits) -> float:
        """How far a way of serving is off at most: in one batch of mixed lengths, and for each text alone, after the batch."""
        batch = logits(self.texts)
        alone = np.concatenate([logits([text]) for text in self.texts])
        worst = float(max(np.abs(batch - self.expected).max(), np.abs(alone - self.expected).max()))
        return worst if np.isfinite(worst) else float("inf")

    def hold_to(self, rounded: Logits) -> float:
        """From here on what is served is held to `rounded`, the same model in 8-bit integers, which is not the plain model. How
        far that is from it at most; it is for the operator to judge."""
        found = np.concatenate([rounded([text]) for text in self.texts])
        worst = float(np.abs(found - self.expected).max())
        if not worst <= INT8_SUSPECT * self.scale:
            log.warning(
                "%s: int8 changes a logit by %.2g where the largest is %.2g; prepare it with more texts of its own kind",
                self._path.name, worst, self.scale,
            )  # fmt: skip
        self.expected = found
        return worst

    def _limit(self, model: PreTrainedModel, texts: TrialTexts, claimed: int) -> tuple[int, Trial | None]:
        """The longest text that the model takes, and a trial of that length. A table of positions may have rows that no text can
        use, as RoBERTa's two. Above `MOST_TOKENS` the claim is believed."""
        longest = texts.of_length(min(claimed, MOST_TOKENS), seed=99)
        if longest is None or claimed > MOST_TOKENS or self._alone(model, longest) is not None:
            return claimed, longest
        works, fails = 0, len(longest)
        while fails - works > 1:
            tried = max(fails - 2, works + 1) if fails == len(longest) else (works + fails) // 2  # two rows less, most often
            trial = texts.of_length(tried, seed=99)
            if trial is not None and self._alone(model, trial) is not None:
                works, longest = tried, trial
            else:
                fails = tried
        if works:
            log.info("%s takes %d tokens, not the %d that its configuration says", self._path.name, works, claimed)
        return works or claimed, longest

    def _alone(self, model: PreTrainedModel, trial: Trial) -> FloatArray | None:
        """The logits of one text (1, labels); None where the model fails on it."""
        try:
            return self._forward(model, trial, torch.device("cpu"))
        except Exception as error:  # whatever a class of somebody else's raises; there are other texts to try
            if is_out_of_memory(error):
                raise
            self._failure = f"{type(error).__name__}: {first_line(error)}"
            return None

    @torch.inference_mode()
    def _forward(self, model: PreTrainedModel, trial: Trial, device: torch.device) -> FloatArray:
        rows = {name: row.to(device) for name, row in self.takes.rows(trial.inputs).items()}
        return logits_of(model(**rows)).float().cpu().numpy()

    def _check(self, model: PreTrainedModel) -> None:
        if not np.isfinite(self.expected).all():
            raise CatalogError(
                f"{self._path}: {self._kind}: the first forward gave a score that is not a number; its weights are broken"
            )
        again = np.concatenate([self._forward(model, trial, torch.device("cpu")) for trial in reversed(self.trials)])[::-1]
        worst = float(np.abs(again - self.expected).max())
        if worst > TOLERANCE * self.scale:
            raise CatalogError(
                f"{self._path}: {self._kind} gives other scores for the same text when it is asked again (a logit differs by "
                f"{worst:.2g}): its forward is random, or keeps something of the text before; no score of it can be vouched for"
            )

    def _named(self, served: ServedModel) -> tuple[str, ...]:
        count = self.expected.shape[1]
        if count == len(served.labels):
            return served.labels
        if served.labels != tuple(DEFAULT_NAME.format(index) for index in range(len(served.labels))):
            raise CatalogError(
                f"{self._path}: {self._kind} gives {count} logits, but config.json names {len(served.labels)} labels; set "
                "id2label there to a name for each logit"
            )
        log.warning(
            "%s gives %d logits, and its config.json has %d labels without names: served as LABEL_0 to LABEL_%d",
            served.name, count, len(served.labels), count - 1,
        )  # fmt: skip
        return tuple(DEFAULT_NAME.format(index) for index in range(count))


def logits_of(output: Any) -> torch.Tensor:
    """(texts, labels), from what a forward returns: an output with `logits`, a mapping that holds them, a tuple that begins with
    them, or a bare tensor. TypeError for anything else."""
    if not isinstance(output, torch.Tensor):
        found = getattr(output, "logits", None)
        if found is None:
            found = output.get("logits") if isinstance(output, Mapping) else output[0] if isinstance(output, tuple) else None
        output = found
    if not isinstance(output, torch.Tensor) or output.dim() not in (1, 2):
        shape = f"a tensor {tuple(output.shape)}" if isinstance(output, torch.Tensor) else type(output).__name__
        raise TypeError(f"its forward gives {shape} where logits of (texts, labels) are needed")
    return output.unsqueeze(1) if output.dim() == 1 else output


def first_line(error: Exception) -> str:
    """What an error says first."""
    return (str(error).strip().splitlines() or ["it says no more"])[0]
