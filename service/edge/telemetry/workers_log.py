"""What the log says of the workers, once for all HTTP processes.

A line says that a worker is ready or lost. Once all workers are ready, a line says what is served, on what, within which limits.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from service import metrics
from service.frames import Hello
from service.runtime_dir import locked
from service.served.catalog import ServedModel
from service.settings import Settings

log = logging.getLogger("valence.workers")


class ToWorker(Protocol):
    """A link, as far as it matters here."""

    hello: Hello | None


class Catalog(Protocol):
    """The models, as far as they matter here."""

    @property
    def catalog(self) -> Mapping[int, ServedModel]: ...


class OneSpeaks(logging.Filter):
    """Lets the records of only one process pass, where every process would log the same.

    It is the first process that logs something. When that one has died, it is the next that does."""

    def __init__(self, lock: Path) -> None:
        """Each process makes a filter of its own, after it was forked."""
        super().__init__()
        self._lock = lock.open("w")

    def filter(self, record: logging.LogRecord) -> bool:
        return locked(self._lock.fileno())


class WorkersLog:
    """The log of one HTTP process, whose links call `found` and `lost`."""

    def __init__(self, settings: Settings, models: Catalog, *, http_processes: int) -> None:
        self.settings = settings
        self.models = models
        self.http_processes = http_processes
        self.links: Sequence[ToWorker] = ()
        self._is_said = False

    def found(self, hello: Hello) -> None:
        """Notes that a worker is ready."""
        log.info("worker %s is ready", hello.device)
        metrics.WORKER_UP.labels(hello.device).set(1)
        hellos = [link.hello for link in self.links if link.hello is not None]
        if len(hellos) == len(self.links) and not self._is_said:
            self._is_said = True
            log_ready(self.settings, self.models.catalog, hellos, http_processes=self.http_processes)

    def lost(self, hello: Hello) -> None:
        """Notes that a worker died. Its supervisor replaces it."""
        log.warning("worker %s was lost", hello.device)
        metrics.WORKER_UP.labels(hello.device).set(0)
        metrics.process_died(hello.pid)


def log_ready(settings: Settings, catalog: Mapping[int, ServedModel], hellos: Sequence[Hello], *, http_processes: int) -> None:
    """Logs what is served: one line for people, and the same as fields."""
    details = hellos[0].details  # every worker loads every model in the same way
    models = [{"name": model.name, "architecture": model.architecture, **details[place]} for place, model in catalog.items()]
    limits = {
        "max_batch_tokens": settings.batch_tokens(hellos[0].device),
        "max_concurrent_requests": settings.max_concurrent_requests,
        "request_timeout_s": settings.request_timeout_s,
    }
    log.info(
        "ready: %s; %s, %s; at most %d tokens a batch, %d requests at a time, %g s a request; http://%s:%d",
        ", ".join(map(described, models)), counted(len(hellos), "worker"), counted(http_processes, "HTTP process", "es"),
        *limits.values(), f"[{settings.host}]" if ":" in settings.host else settings.host, settings.port,
        extra={"models": models, "workers": [hello.device for hello in hellos], "limits": limits},
    )  # fmt: skip


def described(model: dict[str, str]) -> str:
    """As in `sentiment-bert (custom_bert, float32 on cpu, packed attention, packed batches)`."""
    attention = "no" if model["attention"] == "none" else model["attention"]
    parts = [
        model["architecture"],
        f"{model['dtype']} on {model['device']}",
        f"{attention} attention",
        f"{model['batching']} batches",
    ]
    return f"{model['name']} ({', '.join(parts)})"


def counted(count: int, what: str, plural: str = "s") -> str:
    """As in `1 worker`, `2 workers`."""
    return f"{count} {what}{'' if count == 1 else plural}"
