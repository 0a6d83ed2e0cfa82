"""Stock LitServe with stock transformers, as their documentation shows it: the hooks of a `LitAPI`, dynamic batching by size and
timeout, `AutoTokenizer` with padding, the Auto class in evaluation mode.

It answers `{"inputs": string | [string, ...]}` on /predict in the form that Valence answers: one load generator fits both.

    python -m load_tests.peers.stock_litserve --model models/checkpoints/sentiment-bert --port 8100 --threads 2
"""

import argparse
from pathlib import Path
from typing import Any

import litserve as ls
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerBase

from models import register_architectures

TOKENIZERS = Path(__file__).parent.parent.parent / "tokenizers_store"
Inputs = str | list[str]


class StockClassifier(ls.LitAPI):
    """A text classifier. A request may hold several texts; a batch of requests is one padded forward over all their texts."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(max_batch_size=options.max_batch_size, batch_timeout=options.batch_timeout_s)
        self.options = options

    def setup(self, device: str) -> None:
        torch.set_num_threads(self.options.threads)
        register_architectures()
        # sdpa attention is the library's default where an architecture has it
        model = AutoModelForSequenceClassification.from_pretrained(
            self.options.model, dtype=getattr(torch, self.options.dtype), trust_remote_code=False
        )
        self.model = model.to(device).eval()
        self.tokenizer = load_tokenizer(self.options.model, self.options.tokenizer, model.config)
        self.max_length = model.config.max_position_embeddings
        self.labels = [model.config.id2label[label] for label in range(model.config.num_labels)]

    def decode_request(self, request: dict[str, Any]) -> Inputs:
        inputs: Inputs = request["inputs"]
        return inputs

    def batch(self, inputs: list[Inputs]) -> list[Inputs]:
        return inputs

    def predict(self, x: list[Inputs]) -> list[Any]:
        texts = [text for inputs in x for text in ([inputs] if isinstance(inputs, str) else inputs)]
        rows = iter(self.score(texts))
        return [next(rows) if isinstance(inputs, str) else [next(rows) for _ in inputs] for inputs in x]

    def unbatch(self, output: list[Any]) -> list[Any]:
        return output

    def encode_response(self, output: list[Any]) -> list[Any]:
        """Scores become labels with scores, best first."""
        if isinstance(output[0], list):
            return [self.encode_response(row) for row in output]
        best_first = sorted(zip(self.labels, output, strict=True), key=lambda pair: -pair[1])
        return [{"label": label, "score": score} for label, score in best_first]

    @torch.inference_mode()
    def score(self, texts: list[str]) -> list[list[float]]:
        """Probabilities (texts, labels)."""
        batch = self.tokenizer(texts, padding=True, truncation=True, max_length=self.max_length, return_tensors="pt")
        scores: list[list[float]] = self.model(**batch.to(self.model.device)).logits.float().softmax(dim=-1).tolist()
        return scores


class UnbatchedClassifier(StockClassifier):
    """With a batch size of 1 LitServe hands over single requests and calls neither `batch` nor `unbatch`."""

    def predict(self, x: Inputs) -> list[Any]:  # type: ignore[override]
        scores: list[Any] = super().predict([x])[0]
        return scores


def load_tokenizer(model: Path, tokenizer: Path | None, config: Any) -> PreTrainedTokenizerBase:
    """The tokenizer folder given, else the checkpoint's own, else the one of `tokenizers_store/` that its config names."""
    if tokenizer is None:
        tokenizer = model if (model / "tokenizer.json").exists() else TOKENIZERS / config.tokenizer_name
    return AutoTokenizer.from_pretrained(tokenizer, trust_remote_code=False)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m load_tests.peers.stock_litserve")
    result.add_argument("--model", type=Path, required=True, help="checkpoint folder")
    result.add_argument("--tokenizer", type=Path, help="tokenizer folder; none: the checkpoint's")
    result.add_argument("--port", type=int, default=8100)
    result.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    result.add_argument("--threads", type=int, default=1, help="torch threads of one worker")
    result.add_argument("--workers-per-device", type=int, default=1)
    result.add_argument("--http-processes", type=int, help="none: LitServe's choice, one per worker")
    result.add_argument("--max-batch-size", type=int, default=32)
    result.add_argument("--batch-timeout-s", type=float, default=0.01)
    return result


def main() -> None:
    """Serves until a signal."""
    options = parser().parse_args()
    api_class = StockClassifier if options.max_batch_size > 1 else UnbatchedClassifier
    server = ls.LitServer(api_class(options), accelerator="auto", workers_per_device=options.workers_per_device)
    server.run(
        host="127.0.0.1",
        port=options.port,
        num_api_servers=options.http_processes,
        generate_client_file=False,
        access_log=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
