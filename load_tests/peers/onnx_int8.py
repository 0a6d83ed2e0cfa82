"""ONNX Runtime behind FastAPI, written by hand for speed: an int8 graph, a queue without a timer, little padding, orjson.

A round takes all texts that wait, sorts them by length and computes them in batches of at most `--batch-size`, each padded to its
own longest text; a batch is answered as soon as it is done. `onnx_export` makes the graph.

    python -m load_tests.peers.onnx_int8 --model /tmp/plain-bert --graph /tmp/bert-int8.onnx --workers 2 --threads 1
"""

import argparse
import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime  # type: ignore[import-not-found]
import orjson
from fastapi import FastAPI, Request, Response
from tokenizers import Tokenizer

from load_tests.peers.command_line import app_parser, serve_app

ROUND_TEXTS = 128


@dataclass(frozen=True)
class Job:
    """One text, and where its answer goes."""

    ids: list[int]
    answer: asyncio.Future[list[dict[str, Any]]]


class Classifier:
    """The queue and the session; one thread computes."""

    def __init__(self, options: argparse.Namespace) -> None:
        config = json.loads((options.model / "config.json").read_text(encoding="utf-8"))
        self.labels = [config["id2label"][str(label)] for label in range(len(config["id2label"]))]
        self.tokenizer = Tokenizer.from_file(str(options.model / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(config["max_position_embeddings"])
        self.batch_size = options.batch_size
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = options.threads
        settings.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(options.graph), settings, providers=["CPUExecutionProvider"])
        self.queue: asyncio.Queue[Job] = asyncio.Queue()
        self.executor = ThreadPoolExecutor(1)

    async def classify(self, texts: Sequence[str]) -> list[list[dict[str, Any]]]:
        """Labels with scores, best first, for each text."""
        loop = asyncio.get_running_loop()
        jobs = [Job(encoding.ids, loop.create_future()) for encoding in self.tokenizer.encode_batch_fast(list(texts))]
        for job in jobs:
            self.queue.put_nowait(job)
        return [await job.answer for job in jobs]

    async def work(self) -> None:
        """Rounds, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            jobs = [await self.queue.get()]
            while len(jobs) < ROUND_TEXTS and not self.queue.empty():
                jobs.append(self.queue.get_nowait())
            jobs.sort(key=lambda job: len(job.ids))
            for start in range(0, len(jobs), self.batch_size):
                batch = jobs[start : start + self.batch_size]
                scores = await loop.run_in_executor(self.executor, self.score, [job.ids for job in batch])
                for job, row in zip(batch, scores, strict=True):
                    if not job.answer.done():
                        job.answer.set_result(row)

    def score(self, batch: Sequence[list[int]]) -> list[list[dict[str, Any]]]:
        """One padded forward."""
        ids = np.zeros((len(batch), max(map(len, batch))), dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, text in enumerate(batch):
            ids[row, : len(text)] = text
            mask[row, : len(text)] = 1
        feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        (logits,) = self.session.run(["logits"], feeds)
        exponents = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return [self.best_first(row) for row in (exponents / exponents.sum(axis=-1, keepdims=True)).tolist()]

    def best_first(self, row: Sequence[float]) -> list[dict[str, Any]]:
        pairs = sorted(zip(self.labels, row, strict=True), key=lambda pair: -pair[1])
        return [{"label": label, "score": score} for label, score in pairs]


def create_app() -> FastAPI:
    """What each worker of uvicorn calls; a worker is started with the command line of the main process."""
    options = parser().parse_args()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.classifier = Classifier(options)
        work = asyncio.create_task(app.state.classifier.work())
        yield
        work.cancel()

    app = FastAPI(lifespan=lifespan)

    @app.get("/health")
    async def health() -> str:
        return "ok"

    @app.post("/predict")
    async def predict(request: Request) -> Response:
        inputs = orjson.loads(await request.body())["inputs"]
        rows = await app.state.classifier.classify([inputs] if isinstance(inputs, str) else inputs)
        return Response(orjson.dumps(rows[0] if isinstance(inputs, str) else rows), media_type="application/json")

    return app


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = app_parser("onnx_int8", dtypes=("int8",), batch="texts of one forward")
    result.add_argument("--graph", required=True, help="the graph that onnx_export wrote")
    return result


if __name__ == "__main__":
    serve_app("onnx_int8", parser().parse_args())
