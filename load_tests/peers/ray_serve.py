"""Ray Serve with stock transformers, as its guide to dynamic batching shows it: replicas that gather requests by `@serve.batch`.

python -m load_tests.peers.ray_serve --model /tmp/plain-bert --replicas 2 --threads 1 --max-batch-size 8
"""

import argparse
import signal
import tempfile
import threading
from typing import Any

import orjson
import ray
import torch
from ray import serve
from starlette.requests import Request
from starlette.responses import Response
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from load_tests.peers.command_line import peer_parser

BATCH_WAIT_S = 0.01


class Classifier:
    """A batch is one padded forward over the texts of all its requests."""

    def __init__(self, options: argparse.Namespace) -> None:
        torch.set_num_threads(options.threads)
        dtype = getattr(torch, options.dtype)
        self.model = AutoModelForSequenceClassification.from_pretrained(options.model, dtype=dtype).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(options.model)
        self.labels = [self.model.config.id2label[label] for label in range(self.model.config.num_labels)]
        self.classify.set_max_batch_size(options.max_batch_size)

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=BATCH_WAIT_S)
    async def classify(self, requests: list[list[str]]) -> list[list[Any]]:
        texts = [text for request in requests for text in request]
        rows = iter(self.score(texts))
        return [[next(rows) for _ in request] for request in requests]

    async def __call__(self, request: Request) -> Response:
        if request.method == "GET":
            return Response("ok")
        inputs = orjson.loads(await request.body())["inputs"]
        rows = await self.classify([inputs] if isinstance(inputs, str) else inputs)
        return Response(orjson.dumps(rows[0] if isinstance(inputs, str) else rows), media_type="application/json")

    @torch.inference_mode()
    def score(self, texts: list[str]) -> list[list[dict[str, Any]]]:
        """Labels with scores, best first."""
        batch = self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        probabilities = self.model(**batch).logits.float().softmax(dim=-1).tolist()
        pairs = (sorted(zip(self.labels, row, strict=True), key=lambda pair: -pair[1]) for row in probabilities)
        return [[{"label": label, "score": score} for label, score in row] for row in pairs]


def main() -> None:
    """Serves until a signal."""
    parser = peer_parser("ray_serve")
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="torch threads of one replica")
    parser.add_argument("--max-batch-size", type=int, default=32)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        run(options, folder)


def run(options: argparse.Namespace, folder: str) -> None:
    """Ray's own files go to `folder`."""
    # Only an account: Ray binds nothing to cores. A replica takes one from it, the proxy and the controller take none.
    ray.init(include_dashboard=False, log_to_driver=False, num_cpus=options.replicas, _temp_dir=folder)
    serve.start(http_options={"host": "127.0.0.1", "port": options.port})
    deployment = serve.deployment(
        num_replicas=options.replicas,
        # the default of 5 would keep batches from filling
        max_ongoing_requests=4 * options.max_batch_size,
        ray_actor_options={"num_cpus": 1, "runtime_env": {"env_vars": {"OMP_NUM_THREADS": str(options.threads)}}},
    )(Classifier)
    serve.run(deployment.bind(options), route_prefix="/predict")
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    stop.wait()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
