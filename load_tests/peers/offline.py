"""What people score a file with: transformers' pipeline, in order of arrival, sorted by length or in `datasets.map`; vLLM's
offline classification.

Prints {"texts_per_s", "start_s"} as JSON. The start (imports, weights) is not counted in the rate.

    python -m load_tests.peers.offline pipeline --model models/checkpoints/sentiment-bert --texts texts.txt --batch-size 32
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Score = Callable[[list[str]], Any]


def classifier(options: argparse.Namespace) -> Any:
    """transformers' pipeline with the checkpoint, by the Auto classes."""
    import torch
    from transformers import AutoModelForSequenceClassification, pipeline

    from load_tests.peers.stock_litserve import load_tokenizer
    from models import register_architectures

    torch.set_num_threads(options.threads)
    register_architectures()
    model = AutoModelForSequenceClassification.from_pretrained(options.model, dtype=getattr(torch, options.dtype)).eval()
    tokenizer = load_tokenizer(options.model, None, model.config)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return pipeline("text-classification", model=model, tokenizer=tokenizer, device=device)


def by_pipeline(options: argparse.Namespace) -> Score:
    """As the pipeline's documentation has it."""
    classify = classifier(options)
    return lambda texts: classify(texts, batch_size=options.batch_size, truncation=True)


def by_sorted_pipeline(options: argparse.Namespace) -> Score:
    """With texts of similar length in a batch, which spares padding."""
    classify = classifier(options)
    return lambda texts: classify(sorted(texts, key=len, reverse=True), batch_size=options.batch_size, truncation=True)


def by_map(options: argparse.Namespace) -> Score:
    """As a column of a data set."""
    from datasets import Dataset, disable_caching, disable_progress_bars

    disable_caching()
    disable_progress_bars()
    classify = classifier(options)

    def scored(batch: dict[str, list[str]]) -> dict[str, list[Any]]:
        found = classify(batch["text"], batch_size=options.batch_size, truncation=True)
        return {"label": [one["label"] for one in found], "score": [one["score"] for one in found]}

    return lambda texts: Dataset.from_dict({"text": texts}).map(scored, batched=True, new_fingerprint="scored")


def by_vllm(options: argparse.Namespace) -> Score:
    """`LLM.classify`, of the checkpoint as transformers' own BERT (`load_tests.peers.convert`)."""
    from vllm import LLM

    model = LLM(model=str(options.model), runner="pooling", dtype=options.dtype)
    return lambda texts: model.classify(texts, use_tqdm=False)


KINDS: dict[str, Callable[[argparse.Namespace], Score]] = {
    "pipeline": by_pipeline,
    "sorted-pipeline": by_sorted_pipeline,
    "datasets-map": by_map,
    "vllm": by_vllm,
}


def main() -> None:
    """Prints one line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m load_tests.peers.offline")
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--model", type=Path, required=True, help="checkpoint folder")
    parser.add_argument("--texts", type=Path, required=True, help="a text a line")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    texts = options.texts.read_text(encoding="utf-8").splitlines()
    started_at = time.perf_counter()
    score = KINDS[options.kind](options)
    score(texts[: options.batch_size])
    begun_at = time.perf_counter()
    score(texts)
    ended_at = time.perf_counter()
    print(json.dumps({"texts_per_s": len(texts) / (ended_at - begun_at), "start_s": begun_at - started_at}))


if __name__ == "__main__":
    main()
