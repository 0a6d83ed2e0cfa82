"""What transformers itself makes of a text: `AutoTokenizer` and the plain model in float32, each text alone.

Logits are those of a forward that gets what the tokenizer returns, as far as its signature takes it. Scores follow
`TextClassificationPipeline.postprocess` of transformers 5.23 (pipelines/text_classification.py): nothing for
`problem_type` "regression", else the sigmoid for "multi_label_classification" or one label, else the softmax.
"""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedConfig, PreTrainedModel

Text = str | tuple[str, str]
FloatArray = npt.NDArray[np.float32]


class Reference:
    """A checkpoint as a user of transformers has it."""

    def __init__(self, folder: Path, *, tokenizer: Path | None = None, dtype: torch.dtype = torch.float32) -> None:
        """`tokenizer`: its folder, where that is another. Raises what transformers raises."""
        self.tokenizer = AutoTokenizer.from_pretrained(tokenizer or folder, trust_remote_code=False)
        self.model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=dtype, trust_remote_code=False, use_safetensors=True
        ).eval()
        self._taken = inspect.signature(self.model.forward).parameters
        self._takes_all = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in self._taken.values())

    def logits(self, texts: Sequence[Text], *, max_length: int | None = None) -> FloatArray:
        """(texts, labels) float32, each alone; longer ones are cut at `max_length` tokens if given."""
        return np.stack([self._logits(text, max_length) for text in texts])

    @torch.no_grad()
    def _logits(self, text: Text, max_length: int | None) -> FloatArray:
        pair = (text,) if isinstance(text, str) else text
        inputs = dict(self.tokenizer(*pair, return_tensors="pt", truncation=max_length is not None, max_length=max_length))
        if not self._takes_all:
            inputs = {name: tensor for name, tensor in inputs.items() if name in self._taken}
        if "use_cache" in self._taken:  # as the pipeline does
            inputs["use_cache"] = False
        return logits_of(self.model(**inputs))[0].float().numpy()


def logits_of(output: Any) -> torch.Tensor:
    """The logits of whatever a forward returns: an output with that name, a dict, a tuple that begins with them, or a tensor."""
    if isinstance(output, torch.Tensor):
        return output
    if isinstance(output, Mapping) and "logits" in output:
        return output["logits"]
    return output[0]


def scores(logits: FloatArray, config: PreTrainedConfig) -> FloatArray:
    """By the pipeline's rules for a row of logits or several."""
    if config.problem_type == "regression":
        return logits
    if config.problem_type == "multi_label_classification" or config.num_labels == 1:
        return (1 / (1 + np.exp(-logits))).astype(np.float32)
    exponentials: FloatArray = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)
