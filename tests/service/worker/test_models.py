"""A worker loads models while it works, and drops those that no HTTP process needs."""

import asyncio
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from service.engine.engine import Engine
from service.engine.packs import TextIds
from service.frames import Job, Load, Loaded
from service.runtime_dir import RuntimeDir
from service.served.catalog import ServedModel
from service.served.roster import MODEL, Roster, RosterFile
from service.settings import Settings
from service.worker.meter import BatchMeter
from service.worker.models import LoadedModels, eager_switches, reason
from service.worker.queue import TextQueue

BERT, LSTM = 0, 1
NO_MEMORY = "{}: not enough memory to load and run it beside the models that are served"


@pytest.fixture
def models(settings_of: Callable[..., Settings], catalog: Mapping[str, ServedModel], tmp_path: Path) -> LoadedModels:
    """A worker's models: `tiny-bert` at place 0, which the roster holds. No HTTP process has said yet what it needs."""
    roster = RosterFile(RuntimeDir(tmp_path))
    roster.write(Roster.of([catalog["tiny-bert"]]))
    settings = settings_of(model_roots=(str(tmp_path),))
    engines = {BERT: Engine(catalog["tiny-bert"], device="cpu", settings=settings)}
    return LoadedModels(
        engines, queue=TextQueue(max_batch_tokens=9, on_dropped=lambda *_: None),
        meter=BatchMeter({BERT: "tiny-bert"}, device="cpu/0", max_batch_tokens=9), device="cpu", settings=settings,
        roster=roster,
    )  # fmt: skip


def load(models: LoadedModels, place: int, model: ServedModel) -> Loaded:
    return asyncio.run(models.load(Load(place, MODEL.dump_json(model))))


def test_a_loaded_model_scores(models: LoadedModels, catalog: Mapping[str, ServedModel]) -> None:
    assert load(models, LSTM, catalog["tiny-lstm"]) == Loaded(LSTM)
    assert models.engines[LSTM].logits([TextIds(np.array([5, 6], np.int32))]).shape == (1, 3)
    assert list(models.engines) == [BERT, LSTM]


def test_weights_that_are_not_those_that_were_asked_for_are_not_served(
    models: LoadedModels, catalog: Mapping[str, ServedModel]
) -> None:
    loaded = load(models, LSTM, replace(catalog["tiny-lstm"], weights="0" * 12))
    assert loaded.failure.endswith("tiny-lstm: its weights changed while they were loaded")
    assert list(models.engines) == [BERT]


def test_a_model_is_kept_while_any_connection_needs_it(models: LoadedModels, catalog: Mapping[str, ServedModel]) -> None:
    load(models, LSTM, catalog["tiny-lstm"])
    models.needs(7, [BERT, LSTM])
    models.needs(8, [BERT])
    assert models.drop_unneeded() == []
    models.needs(7, [BERT])
    (dropped,) = models.drop_unneeded()
    assert list(models.engines) == [BERT]
    assert dropped() is None  # freed with its last reference, without a collection


def test_a_model_that_only_a_lost_connection_needed_is_dropped(models: LoadedModels, catalog: Mapping[str, ServedModel]) -> None:
    load(models, LSTM, catalog["tiny-lstm"])
    models.needs(7, [BERT, LSTM])
    models.needs(8, [BERT])
    models.left(7)
    assert len(models.drop_unneeded()) == 1


def test_what_the_roster_holds_is_kept_though_nobody_needs_it_yet(
    models: LoadedModels, catalog: Mapping[str, ServedModel]
) -> None:
    load(models, LSTM, catalog["tiny-lstm"])
    models.roster.write(Roster.of([catalog["tiny-bert"], catalog["tiny-lstm"]]))
    models.needs(8, [])
    assert models.drop_unneeded() == []


def test_nothing_is_dropped_while_no_http_process_is_there(models: LoadedModels, catalog: Mapping[str, ServedModel]) -> None:
    load(models, LSTM, catalog["tiny-lstm"])
    assert models.drop_unneeded() == []


def test_texts_that_wait_for_a_dropped_model_go_with_it(models: LoadedModels, catalog: Mapping[str, ServedModel]) -> None:
    load(models, LSTM, catalog["tiny-lstm"])
    ids = np.array([5, 6], "<i4").tobytes()
    for place in (BERT, LSTM):
        models.queue.put(Job(place, place, time.monotonic() + 60, 0, [2], ids), reply_to=7)
    models.needs(8, [BERT])
    models.drop_unneeded()
    assert (models.queue.depths(), models.queue.tokens) == ({BERT: 1}, 2)


def test_a_file_that_is_written_over_changes_no_score_of_what_is_served(
    settings_of: Callable[..., Settings], catalog: Mapping[str, ServedModel]
) -> None:
    served = catalog["tiny-bert"]
    file, text = served.path / "model.safetensors", TextIds(np.arange(5, 20, dtype=np.int32))
    engine = Engine(served, device="cpu", settings=settings_of())
    before, whole = engine.logits([text]), file.read_bytes()
    try:
        with file.open("r+b") as opened:
            opened.seek(len(whole) // 4)
            opened.write(bytes(len(whole) - len(whole) // 4))
        np.testing.assert_array_equal(engine.logits([text]), before)
    finally:
        file.write_bytes(whole)


def test_threads_take_turns_faster_while_a_model_is_loaded() -> None:
    before = sys.getswitchinterval()
    with eager_switches():
        assert sys.getswitchinterval() < before / 10
    assert sys.getswitchinterval() == before


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (MemoryError(), NO_MEMORY),
        (torch.OutOfMemoryError("CUDA out of memory.\nmore"), NO_MEMORY),
        (ValueError("{}/x: wrong\nmore"), "{}/x: wrong"),
        (KeyError(), "{}: KeyError"),
    ],
)
def test_a_failure_is_one_sentence_that_names_the_folder(
    error: Exception, sentence: str, catalog: Mapping[str, ServedModel]
) -> None:
    model = catalog["tiny-bert"]
    if isinstance(error, ValueError):
        error = ValueError(str(error).format(model.path))
    assert reason(error, model) == sentence.format(model.path)
