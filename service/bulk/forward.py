"""Token ids to logits on one device: full batches, the next one launched before the last one's logits are read."""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import numpy.typing as npt
import torch

from service.bulk.encoding import Chunk
from service.bulk.setup import Setup
from service.engine.engine import Engine, Launched
from service.engine.faults import FAULTS_OF_TEXTS
from service.engine.halving import score_halves
from service.engine.packs import FloatArray, TextIds
from service.served.catalog import CatalogError, ServedModel, register_all, weights_digest
from service.served.hub import fetch

log = logging.getLogger("valence.bulk")
# The token budget is not lowered beyond this.
LEAST_BATCH_TOKENS = 64


@dataclass(frozen=True)
class Scored:
    """Logits (S, labels) of the texts of a chunk. `failed` (S): the model raised on these, or gave what is no number."""

    logits: FloatArray
    failed: npt.NDArray[np.bool_]

    @classmethod
    def none(cls, texts: int, *, labels: int) -> "Scored":
        """Every text failed."""
        return cls(np.zeros((texts, labels), dtype=np.float32), np.ones(texts, dtype=bool))

    @classmethod
    def joined(cls, parts: Sequence["Scored"], *, labels: int) -> "Scored":
        """One after another."""
        parts = [cls.none(0, labels=labels), *parts]
        return cls(np.concatenate([part.logits for part in parts]), np.concatenate([part.failed for part in parts]))


class Forward:
    """The model of a run on one device, ready. CatalogError where it can't be loaded."""

    def __init__(self, setup: Setup, device: str) -> None:
        settings = setup.settings
        register_all(settings.import_modules)
        if device == "cpu":
            torch.set_num_threads(settings.thread_count())
        served = on_this_machine(setup.served)
        if weights_digest(*served.folders) != served.weights:
            raise CatalogError(f"{served.path}: other weights than those that the run began with")
        self.engine = Engine(served, device=device, settings=settings)
        if (self.engine.labels, self.engine.max_length) != (served.labels, served.max_length):
            raise CatalogError(
                f"{served.path}: the model takes {self.engine.max_length} tokens and gives {len(self.engine.labels)} logits, but "
                f"its files say {served.max_length} and {len(served.labels)}; set model_max_length in tokenizer_config.json and "
                "id2label in config.json"
            )
        self.labels = len(served.labels)
        self.max_batch_tokens = settings.batch_tokens(device)

    def score(self, chunk: Chunk) -> Scored:
        """A text that the model fails on fails alone. An error of CUDA that sticks is raised: the process must be replaced."""
        return Scored.joined(list(self._scored(chunk.texts())), labels=self.labels)

    def _scored(self, texts: Sequence[TextIds]) -> Iterator[Scored]:
        running: tuple[Sequence[TextIds], Launched | Exception] | None = None
        for batch in self._batches(texts):
            launched = (batch, self._launch(batch))
            if running is not None:
                yield self._finished(*running)
            running = launched
            if not self.engine.overlaps:
                yield self._finished(*running)
                running = None
        if running is not None:
            yield self._finished(*running)

    def _batches(self, texts: Sequence[TextIds]) -> Iterator[Sequence[TextIds]]:
        """Cut where the next text would exceed the budget, which may fall meanwhile."""
        start = tokens = 0
        for place, text in enumerate(texts):
            tokens += len(text.ids)
            if tokens > self.max_batch_tokens and place > start:
                yield texts[start:place]
                start, tokens = place, len(text.ids)
        if texts:
            yield texts[start:]

    def _launch(self, batch: Sequence[TextIds]) -> Launched | Exception:
        try:
            return self.engine.launch(batch)
        except FAULTS_OF_TEXTS as error:
            return error  # which text is at fault is found out when its turn comes

    def _finished(self, batch: Sequence[TextIds], launched: Launched | Exception) -> Scored:
        try:
            if isinstance(launched, Exception):
                raise launched
            logits = launched.wait()
        except FAULTS_OF_TEXTS as error:
            return self._halved(batch, error)
        return Scored(logits, np.logical_not(np.isfinite(logits).all(axis=1)))

    def _halved(self, batch: Sequence[TextIds], error: Exception) -> Scored:
        """The halves of a batch that failed are tried again, until the text at fault stands alone."""
        logits, failed = score_halves(self.engine, batch, error, relieve=self._lower_budget)
        if logits.shape[1] != self.labels:  # no text of it has scores
            return Scored.none(len(batch), labels=self.labels)
        has_failed = np.logical_not(np.isfinite(logits).all(axis=1))
        has_failed[sorted(failed)] = True
        return Scored(logits, has_failed)

    def _lower_budget(self, tokens: int) -> None:
        """A batch of so many tokens took more memory than there is."""
        torch.cuda.empty_cache()  # nothing happens without CUDA
        lower = max(LEAST_BATCH_TOKENS, tokens // 2)
        if lower < self.max_batch_tokens:
            self.max_batch_tokens = lower
            log.warning("out of memory; batches hold %d tokens from now on", self.max_batch_tokens)


def score_or_end(forward: Forward, chunk: Chunk) -> Scored:
    """Ends this process at an error of CUDA that sticks; whoever waits is told that it died, and starts another."""
    try:
        return forward.score(chunk)
    except RuntimeError:
        log.exception("the device failed, and this process ends")
        os._exit(1)


@cache
def forward_of(setup: Setup, device: str) -> Forward:
    """Loaded once a process."""
    return Forward(setup, device)


def on_this_machine(served: ServedModel) -> ServedModel:
    """A model of a hub may have been fetched on another machine: its one commit is fetched here."""
    if served.path.exists() or served.source is None:
        return served
    path = fetch(served.source, with_code=False).path
    return replace(served, path=path, tokenizer_path=path if served.tokenizer_path == served.path else served.tokenizer_path)


def devices(device: str, *, workers_per_device: int) -> list[str]:
    """A device for each forward worker of this machine."""
    found = [device] if device == "cpu" else [f"{device}:{place}" for place in range(torch.cuda.device_count())]
    return [one for one in found for _ in range(workers_per_device)]
