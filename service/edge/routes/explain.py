"""`POST /explain`: what each token of one text gave to the score of a label, by integrated gradients.

The worker computes it between batches (`explaining.py`). What one request may cost is bounded: one text of at most `MAX_TOKENS`
tokens, `--explain-steps` gradients, the request's deadline; and so is how many there are at a time.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NotRequired

import numpy as np
from pydantic import TypeAdapter, with_config
from tokenizers import Encoding
from typing_extensions import TypedDict

from models.inspect.attribution import blanked
from service.edge import errors
from service.edge.call import JSON, Answer, Call, json_answer, read_body
from service.edge.link import Link
from service.edge.routes.fields import parsed
from service.edge.routes.predict import STRICT, FullString
from service.edge.routes.tokenize import ListedToken, tokens
from service.edge.scoring import Scorer, Served, Ticket, headers
from service.frames import ATTRIBUTION_TYPE, ID_TYPE, Explained

MAX_TOKENS = 512
MAX_IN_FLIGHT = 8


@with_config(STRICT)
class ExplainBody(TypedDict):
    """The body of `POST /explain`: one text. `label`: whose score is explained, the best one unless given."""

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
    """`score` and `baseline_score` are raw scores of `label`: of the text, and of the text with every ordinary token blanked out.
    The attributions and `completeness_error` add up to their difference. The error is at most `tolerance`, a hundredth of what
    the tokens gave in all, unless `steps` came to the service's limit."""

    label: str
    score: float
    baseline_score: float
    tokens: list[ExplainedToken]
    steps: int
    completeness_error: float
    tolerance: float


BODY: TypeAdapter[ExplainBody] = TypeAdapter(ExplainBody)
ANSWER: TypeAdapter[Explanation] = TypeAdapter(Explanation)


class Explanations:
    """The route's handler over a scorer."""

    def __init__(self, scorer: Scorer, *, http_processes: int) -> None:
        self.scorer = scorer
        self.limit = math.ceil(MAX_IN_FLIGHT / http_processes)
        self.in_flight = 0

    async def explain(self, call: Call) -> Answer:
        """Explains one score."""
        scorer = self.scorer
        if not scorer.settings.explain_steps:
            raise errors.not_found("explanations are switched off in this service")
        with scorer.admitted(), self._admitted():
            timeout_s = scorer.timeout_s(call)
            body = await read_body(call, scorer.settings.payload_limit, timeout_s)
            fields = parsed(BODY, body, expected="the body must be a JSON object with the field inputs")
            if not fields["inputs"]:
                raise errors.empty()
            place = scorer.place(fields.get("model"))
            served = scorer.served[place]
            served.in_flight += 1
            try:
                content = await self._explained(call, fields, served, place=place, timeout_s=timeout_s)
            finally:
                served.in_flight -= 1
            return json_answer(200, content, [JSON, *headers(call)])

    async def _explained(self, call: Call, fields: ExplainBody, served: Served, *, place: int, timeout_s: float) -> Explanation:
        text, labels = fields["inputs"], served.model.labels
        call.model, call.texts = served.model.name, 1
        target = target_of(fields.get("label"), labels)
        encoding = await self.scorer.tokenized(call, served, partial(self._encode, fields, served), texts=[(text, None)])
        call.tokens = len(encoding)
        if call.tokens > MAX_TOKENS:
            raise errors.validation(f"inputs: {call.tokens} tokens exceed the {MAX_TOKENS} that are explained; shorten the text")
        ids = encoding.ids
        baseline = blanked(ids, encoding.special_tokens_mask, blank=served.blank_id)

        def ask(link: Link, deadline: float) -> Ticket[Explained]:
            return link.explain(packed(ids), packed(baseline), model=place, target=target, deadline=deadline)

        found = await self.scorer.answered(call, ask, place=place, timeout_s=timeout_s)
        if not found.possible:
            raise errors.validation(f"model: scores of {call.model} can't be explained: its architecture gives no gradient")
        if found.failed:
            raise errors.backend(0)
        return explanation(found, tokens(text, encoding), labels)

    def _encode(self, fields: ExplainBody, served: Served) -> Encoding:
        asked = fields.get("truncate")
        return served.encoder.encoding(fields["inputs"], truncate=self.scorer.settings.auto_truncate if asked is None else asked)

    @contextmanager
    def _admitted(self) -> Iterator[None]:
        """Holds one of this process's explanations in flight; 429 where there is none to be had."""
        if self.in_flight >= self.limit:
            raise errors.too_many_explanations(MAX_IN_FLIGHT)
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1


def target_of(label: str | None, labels: Sequence[str]) -> int | None:
    """The label's index; ServiceError 422 for one that the model does not have."""
    if label is not None and label not in labels:
        raise errors.validation(f"label: must be one of {', '.join(labels)}")
    return None if label is None else labels.index(label)


def packed(ids: Sequence[int]) -> bytes:
    """Token ids as they cross to the worker."""
    return np.array(ids, dtype=ID_TYPE).tobytes()


def explanation(found: Explained, listed: Sequence[ListedToken], labels: Sequence[str]) -> Explanation:
    """What the client is told."""
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
