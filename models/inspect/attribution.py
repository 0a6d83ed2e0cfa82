"""What each token of a text gave to a score: integrated gradients (Sundararajan et al. 2017, https://arxiv.org/abs/1703.01365).

The score is followed from a baseline, the text with every ordinary token blanked out, to the text itself, on a straight line
between their embeddings. A token's attribution is its embedding's change times the mean gradient on the way, so that all together
make up the difference between the two scores. Captum integrates over a segment of the way by Gauss-Legendre quadrature. The
segment that misses its own difference most is halved, until the whole is right or the steps are used up. Each segment is a call
of its own, so that a caller can do other work in between.

A hook on the embedding layer puts the points of the way into the model, whose other inputs stay the text's own: nothing is asked
of an architecture, and one that counts positions by looking for padding (RoBERTa) still sees the text. Captum's own
LayerIntegratedGradients goes from ids to ids, the whole way at once.

Shapes: `L` tokens, `E` embedding width, `P` points of a segment.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Points of one segment. A long text has fewer, since a short text that arrives meanwhile waits until the segment is done.
MOST_POINTS, LEAST_POINTS, POINT_TOKENS = 8, 2, 256
# What may be missing from the sum: this part of all that the tokens gave, added up without signs, or this much of a logit if that
# is more.
TOLERANCE, LEAST_TOLERANCE = 0.01, 0.001


@dataclass(frozen=True)
class Attributions:
    """`by_token` (L) and `completeness_error` make up `score - baseline_score`, logits of the label `target`.

    The error is at most `tolerance`, unless `steps`, the gradients computed, came to their limit."""

    target: int
    score: float
    baseline_score: float
    by_token: list[float]
    steps: int
    completeness_error: float
    tolerance: float


@dataclass
class _Segment:
    """A part of the way, from `start` to `end` in [0, 1]: what it gives each token (L), and by how much their sum is wrong."""

    start: float
    end: float
    by_token: torch.Tensor
    error: float


class Attribution:
    """An explanation under way: `advance` until `done`, then `result`."""

    def __init__(
        self, model: PreTrainedModel, ids: Sequence[int], baseline: Sequence[int], *, max_steps: int, target: int | None = None
    ) -> None:
        """`model` as `explainable` gives it. `target`: the label's index; None: the one that scores best. Runs one forward.
        ValueError where the model does not read its embedding layer, or a score is not a number."""
        from captum.attr import IntegratedGradients  # of an extra; its import takes a second and loads matplotlib

        self.model = model
        self.max_steps = max_steps
        self.points = max(1, min(max_steps, MOST_POINTS, max(LEAST_POINTS, POINT_TOKENS // len(ids))))
        self.steps = 0
        self._segments: list[_Segment] = []
        self._ids = torch.tensor([ids], device=model.device)
        self._layer = embedding_layer(model)
        self._integral = IntegratedGradients(self._score)
        with torch.no_grad():
            self._end, self._start = self._layer(self._ids), self._layer(self._ids.new_tensor([baseline]))
            logits = self._logits(torch.cat([self._end, self._start])).double()
        if not logits.isfinite().all():
            raise ValueError("a score of the text or of its baseline is not a number")
        self.target = int(logits[0].argmax()) if target is None else target
        self.score, self.baseline_score = logits[:, self.target].tolist()

    @property
    def done(self) -> bool:
        """Whether the result is right, or no step is left. Errors of segments may cancel in the sum: where a maximum switches
        from token to token, their signs are chance. So the root of the sum of their squares is held to the tolerance too."""
        if not self._segments:
            return torch.equal(self._start, self._end)
        found = self.result()
        spread = math.hypot(*(segment.error for segment in self._segments))
        right = max(spread, abs(found.completeness_error)) <= found.tolerance
        return right or self.steps + 2 * self.points > self.max_steps

    def advance(self) -> None:
        """Computes the first segment, or the two halves of the worst one. ValueError for a gradient that is not a number."""
        if not self._segments:
            self._segments.append(self._segment(0.0, 1.0))
            return
        worst = max(self._segments, key=lambda segment: abs(segment.error))
        middle = (worst.start + worst.end) / 2
        halves = [self._segment(worst.start, middle), self._segment(middle, worst.end)]
        self._segments = [*(segment for segment in self._segments if segment is not worst), *halves]

    def result(self) -> Attributions:
        """What is known so far."""
        by_token = sum((segment.by_token for segment in self._segments), torch.zeros(self._ids.shape[1], dtype=torch.float64))
        difference = self.score - self.baseline_score
        return Attributions(
            target=self.target,
            score=self.score,
            baseline_score=self.baseline_score,
            by_token=by_token.tolist(),
            steps=self.steps,
            completeness_error=difference - float(by_token.sum()),
            tolerance=max(TOLERANCE * float(by_token.abs().sum()), LEAST_TOLERANCE),
        )

    def _segment(self, start: float, end: float) -> _Segment:
        # cuDNN computes no gradient of an LSTM in evaluation mode
        with torch.backends.cudnn.flags(enabled=False):
            found, error = self._integral.attribute(
                self._at(end), self._at(start), n_steps=self.points, return_convergence_delta=True
            )
        self.steps += self.points
        if not found.isfinite().all():
            raise ValueError("a gradient is not a number")
        return _Segment(start, end, found[0].double().sum(-1).cpu(), float(error))

    def _at(self, place: float) -> torch.Tensor:
        """The way's embeddings (1, L, E)."""
        return torch.lerp(self._start, self._end, place)

    def _score(self, embeddings_PLE: torch.Tensor) -> torch.Tensor:
        """The target's logit at each point (P)."""
        return self._logits(embeddings_PLE)[:, self.target]

    def _logits(self, embeddings_PLE: torch.Tensor) -> torch.Tensor:
        """(P, labels), with the embeddings in the place of the text's own."""
        ids = self._ids.expand(len(embeddings_PLE), -1)
        calls = 0

        def replace(layer: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
            nonlocal calls
            calls += 1
            if output.numel() != embeddings_PLE.numel():
                raise ValueError("the model does not embed the text's tokens alone")  # Longformer pads them to its window
            return embeddings_PLE.reshape(output.shape)  # some architectures embed one flat row of tokens

        hook = self._layer.register_forward_hook(replace)
        try:
            logits: torch.Tensor = self.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        finally:
            hook.remove()
        if calls != 1:
            raise ValueError(f"the model reads its embedding layer {calls} times in a forward, not once")
        return logits


def attribute(
    model: PreTrainedModel, ids: Sequence[int], baseline: Sequence[int], *, max_steps: int, target: int | None = None
) -> Attributions:
    """The whole explanation at once; see `Attribution`."""
    under_way = Attribution(model, ids, baseline, max_steps=max_steps, target=target)
    while not under_way.done:
        under_way.advance()
    return under_way.result()


def explainable(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of a float32 model that shares the memory of its weights and takes padded batches, whatever attention the model has.
    Its weights ask for no gradient, so that a backward keeps only what the embeddings' needs."""
    shared: dict[int, object] = {id(one): nn.Parameter(one.detach(), requires_grad=False) for one in model.parameters()}
    twin = copy.deepcopy(model, shared | {id(one): one for one in model.buffers()}).eval()
    if getattr(type(twin), "_supports_attention_backend", False):
        twin.set_attn_implementation("sdpa" if getattr(type(twin), "_supports_sdpa", False) else "eager")
    return twin


def embedding_layer(model: PreTrainedModel) -> nn.Module:
    """Where token ids become vectors. ValueError where the architecture does not say, and more than one layer, or none, has the
    vocabulary's size."""
    try:
        return model.get_input_embeddings()
    except (NotImplementedError, AttributeError):
        size = model.config.vocab_size
        found = [layer for layer in model.modules() if isinstance(layer, nn.Embedding) and layer.num_embeddings == size]
    if len(found) != 1:
        raise ValueError(
            f"{type(model).__name__}: {len(found)} embedding layers have the vocabulary's size; define get_input_embeddings()"
        )
    return found[0]


def blank_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that stands for no word in a baseline: the mask token, else padding. `sentiment-bert` finds a text of padding alone
    90% positive, be it 2 tokens or 40 long, and a text of 5 to 40 masks neutral."""
    candidates = (tokenizer.mask_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id)
    return next((int(token) for token in candidates if token is not None), 0)


def blanked(ids: Sequence[int], special: Sequence[int], *, blank: int) -> list[int]:
    """The baseline of a text: `blank` for each token that is not special.

    >>> blanked([2, 17, 40, 3], [1, 0, 0, 1], blank=4)
    [2, 4, 4, 3]
    """
    return [token if is_special else blank for token, is_special in zip(ids, special, strict=True)]
