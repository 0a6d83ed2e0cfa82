"""`POST /explain`: what each token of one text gave to the score of a label, by integrated gradients.

The worker computes it between batches (`service.worker.explaining`). The cost of a request is bounded: by one text of at most
`MAX_TOKENS` tokens, by `--explain-steps` gradients and by its deadline. The number of explanations at a time is bounded too.
"""

import time
from collections.abc import Sequence
from functools import partial
from typing import NotRequired

import numpy as np
from pydantic import TypeAdapter, with_config
from tokenizers import Encoding
from typing_extensions import TypedDict

from models.inspect.attribution import blanked
from service.edge.http import errors
from service.edge.http.call import Call, Response, json_response
from service.edge.routes.fields import STRICT, FullString, parsed
from service.edge.routes.openapi import SCORING, Operation, Schema
from service.edge.routes.route import Route, Services
from service.edge.routes.tokenize import ListedToken, tokens
from service.edge.scoring.models import EdgeModel
from service.frames import ATTRIBUTION_TYPE, ID_TYPE, Explain, Explained

MAX_TOKENS = 512


@with_config(STRICT)
class ExplainBody(TypedDict):
    """The body of `POST /explain`: one text. `label`: the label whose score is explained; the best one unless given."""

    inputs: FullString
    label: NotRequired[str | None]
    model: NotRequired[str | None]
    truncate: NotRequired[bool | None]


@with_config(STRICT)
class ExplainedToken(ListedToken):
    """A token of the text as the model read it, and what it gave to the score."""

    attribution: float


@with_config(STRICT)
class Explanation(TypedDict):
    """What each token gave to the raw score of `label`.

    `score`: the raw score of the text. `baseline_score`: that of the text with every ordinary token blanked out. The attributions
    and `completeness_error` add up to the difference of the two. The error is at most `tolerance`, a hundredth of what the tokens
    gave in all, unless `steps` came to the service's limit."""

    label: str
    score: float
    baseline_score: float
    tokens: list[ExplainedToken]
    steps: int
    completeness_error: float
    tolerance: float


EXPLAIN_BODY: TypeAdapter[ExplainBody] = TypeAdapter(ExplainBody)


async def explain(edge: Services, call: Call) -> Response:
    """Explains one score."""
    with edge.explanations.held():
        fields = parsed(EXPLAIN_BODY, call.body)
        if not fields["inputs"]:
            raise errors.empty()
        model = edge.models.named(fields.get("model"))
        model.in_flight += 1
        try:
            return json_response(200, await _explained(edge, call, fields, model))
        finally:
            model.in_flight -= 1


async def _explained(edge: Services, call: Call, fields: ExplainBody, model: EdgeModel) -> Explanation:
    text, labels = fields["inputs"], model.served.labels
    call.model, call.texts = model.served.name, 1
    target = target_of(fields.get("label"), labels)
    asked = fields.get("truncate")
    encode = partial(model.encoder.encoding, text, truncate=edge.settings.auto_truncate if asked is None else asked)
    encoding: Encoding = await edge.scorer.tokenized(call, encode, texts=[(text, None)])
    call.tokens = len(encoding)
    if not call.tokens:
        raise errors.no_tokens(0)
    if call.tokens > MAX_TOKENS:
        raise errors.validation(f"inputs: {call.tokens} tokens exceed the {MAX_TOKENS} that are explained; shorten the text")
    baseline = blanked(encoding.ids, encoding.special_tokens_mask, blank=model.blank_id)
    deadline = call.arrived_at + call.timeout_s
    job = Explain(0, model.place, deadline, time.monotonic(), packed(encoding.ids), packed(baseline), target)
    found = await edge.scorer.dispatcher.answered(call, job, timeout_s=call.timeout_s)
    if not found.possible:
        raise errors.validation(f"model: scores of {call.model} can't be explained: its architecture gives no gradient")
    if found.failed:
        raise errors.backend(0)
    return explanation(found, tokens(text, encoding), labels)


def target_of(label: str | None, labels: Sequence[str]) -> int | None:
    """The label's index; ServiceError 422 for one that the model does not have."""
    if label is not None and label not in labels:
        raise errors.validation(f"label: must be one of {', '.join(labels)}")
    return None if label is None else labels.index(label)


def packed(ids: Sequence[int]) -> bytes:
    """Token ids as they cross to the worker."""
    return np.array(ids, dtype=ID_TYPE).tobytes()


def explanation(found: Explained, listed: Sequence[ListedToken], labels: Sequence[str]) -> Explanation:
    """The answer to the client."""
    by_token = np.frombuffer(found.attributions, dtype=ATTRIBUTION_TYPE).tolist()
    return {
        "label": labels[found.target],
        "score": found.score,
        "baseline_score": found.baseline_score,
        "tokens": [{**token, "attribution": gave} for token, gave in zip(listed, by_token, strict=True)],
        "steps": found.steps,
        "completeness_error": found.completeness_error,
        "tolerance": found.tolerance,
    }


ROUTES = (
    Route(
        method="POST",
        path="/explain",
        handle=explain,
        takes_texts=True,
        operation=Operation(
            name="explain",
            summary="Explain one score by the tokens of its text.",
            description="What each token gave to a label's raw score. Where the operator has not opened it, 404.",
            answer=Schema("Explanation", TypeAdapter(Explanation)),
            body=Schema("ExplainBody", EXPLAIN_BODY),
            example={"inputs": "not good at all"},
            failures=SCORING,
            scores=True,
        ),
    ),
)
