"""The driver for a cluster: Ray Data reads, encodes, scores and writes, each on what it takes, and tries again what was lost.

A row of the dataset is a part, so Ray Data's blocks are parts, its tasks write whole files, and what a lost node had is done
again into the same files. Ray Data's own way to take a run up (`CheckpointConfig`) was left aside. It wants a column of unique
ids in every input, holds all ids that are done in memory, reads all input again to leave those out, and knows no order of rows.
"""

import logging
import pickle
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import ray
from ray.data import ActorPoolStrategy, DataContext

from service.bulk.embedded import WorkerDied
from service.bulk.encoding import encode
from service.bulk.forward import Forward, score_or_end
from service.bulk.output import Done, Output, finish
from service.bulk.progress import Progress
from service.bulk.setup import BadInput, Setup
from service.bulk.sources import Source, parts
from service.logs import configure_logging
from service.settings import Settings

# A column of one pickled value a row: Ray Data's own types would be Arrow's, which hold no part.
COLUMN = "part"
Batch = dict[str, np.ndarray]
# Shares of a core, as Ray counts them: of a forward on CPU, per thread, and of what is done beside it. Reading, tokenizing and
# writing take a tenth of what a forward on CPU takes; with whole cores for forwards, none would be left for them.
FORWARD_CPUS, OTHER_CPUS = 0.7, 0.25
# Ray's scheduler counts no memory unless it is told: of one part, in any form, with its copies.
PART_MEMORY = 512 << 20
FORWARD_MEMORY = 1 << 30
ADDRESS = re.compile(r"[^/]+:\d+")
CONNECT_S = 10.0
ENVIRONMENT = {"TOKENIZERS_PARALLELISM": "false", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "512"}


class Cluster:
    """Ray, connected; `local` starts one on this machine. BadInput where it can't be reached."""

    def __init__(self, address: str) -> None:
        if ADDRESS.fullmatch(address):
            check_that_something_listens(address)
        try:
            ray.init(
                address=address,
                runtime_env={"env_vars": ENVIRONMENT},
                logging_level="warning",
            )
        except (ConnectionError, ValueError) as error:
            raise BadInput(f"--ray-address {address}: {str(error).strip().splitlines()[0]}") from error

    def device(self, settings: Settings) -> str:
        """`cpu` or `cuda`: the device asked for, or what the cluster has."""
        if settings.device != "auto":
            return settings.device
        return "cuda" if ray.cluster_resources().get("GPU", 0) else "cpu"

    def run(
        self,
        setup: Setup,
        sources: Sequence[Source],
        done: Mapping[int, Done],
        output: Output,
        progress: Progress,
        *,
        device: str,
    ) -> None:
        """Scores and writes what is not done. WorkerDied where Ray gives up."""
        context = DataContext.get_current()
        context.target_max_block_size = 1  # a block for each part: blocks are what is spread over the cluster
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        given = [pickle.dumps((source, done[source.place].places if source.place in done else set())) for source in sources]
        beside = {"num_cpus": OTHER_CPUS, "memory": PART_MEMORY}
        threads = setup.settings.threads or narrow_threads()
        setup = replace(setup, settings=setup.settings.model_copy(update={"threads": threads}))
        forwards, share = forward_actors(device, threads=threads)
        dataset = (
            ray.data.from_items([{COLUMN: one} for one in given], override_num_blocks=len(given))
            .map_batches(read, fn_args=(setup,), batch_size=1, **beside)
            .map_batches(encode_part, fn_args=(setup,), batch_size=1, **{**beside, "num_cpus": OTHER_CPUS + 0.01})
            .map_batches(
                Score,
                fn_constructor_args=(setup, device),
                compute=ActorPoolStrategy(min_size=1, max_size=forwards, initial_size=forwards),
                batch_size=1,
                memory=FORWARD_MEMORY,
                **share,
            )
            .map_batches(write, fn_args=(setup, output), batch_size=1, **beside)
        )
        progress.begin()
        try:
            for row in dataset.iter_rows():
                counts = pickle.loads(row[COLUMN])
                rows = counts.rows
                progress.texts(rows - counts.errors.total(), tokens=counts.tokens, of=rows or 1, rows=rows)
                progress.part(counts)
        except ray.exceptions.RayError as error:
            raise WorkerDied(f"Ray gave up: {str(error).strip().splitlines()[-1]}") from error


def check_that_something_listens(address: str) -> None:
    """BadInput where nothing does; `ray.init` would try for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except OSError as error:
        raise BadInput(f"--ray-address {address}: {error.strerror or error}") from error


def narrow_threads() -> int:
    """Threads of a CPU forward, as the service would have them on the smallest node: four workers share its cores."""
    return max(1, int(min(node["Resources"].get("CPU", 1) for node in ray.nodes() if node["Alive"]) // 4))


def forward_actors(device: str, *, threads: int) -> tuple[int, dict[str, float]]:
    """How many forward actors the cluster holds, and what each takes of it."""
    resources = ray.cluster_resources()
    if device == "cuda":
        return max(1, int(resources.get("GPU", 0))), {"num_gpus": 1, "num_cpus": FORWARD_CPUS}
    return max(1, int(resources["CPU"] / threads)), {"num_cpus": FORWARD_CPUS * threads}


def read(batch: Batch, setup: Setup) -> Iterator[Batch]:
    """The parts of a source, one at a time."""
    options = setup.options
    for given in batch[COLUMN]:
        source, done = pickle.loads(given)
        for part in parts(source, text_columns=options.text_columns, rows_per_file=options.rows_per_file, done=done):
            yield _row(part)


def encode_part(batch: Batch, setup: Setup) -> Batch:
    """A part with its token ids."""
    part = _held(batch)
    return _row((part, encode(setup, part)))


class Score:
    """The model on one device, in an actor of its own."""

    def __init__(self, setup: Setup, device: str) -> None:
        configure_logging("info", "auto")
        self._forward = Forward(setup, device)

    def __call__(self, batch: Batch) -> Batch:
        part, encoded = _held(batch)
        return _row((part, encoded, score_or_end(self._forward, encoded.chunk)))


def write(batch: Batch, setup: Setup, output: Output) -> Batch:
    """What was written of a part, which is."""
    part, encoded, scored = _held(batch)
    return _row(finish(setup, part, encoded, scored, output))


def _held(batch: Batch) -> Any:
    (value,) = batch[COLUMN]
    return pickle.loads(value)


def _row(value: object) -> Batch:
    held = np.empty(1, dtype=object)
    held[0] = pickle.dumps(value)
    return {COLUMN: held}
