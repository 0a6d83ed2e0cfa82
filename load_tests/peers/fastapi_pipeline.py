"""FastAPI around transformers' pipeline in a sync endpoint, as tutorials show it: the framework's thread pool calls the pipeline,
which tokenizes, pads and computes each request by itself. uvicorn's workers are processes with a model each.

    python -m load_tests.peers.fastapi_pipeline --model models/checkpoints/sentiment-bert --workers 2 --threads 1
"""

import argparse
from typing import Any

import torch
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import AutoModelForSequenceClassification, pipeline

from load_tests.peers.command_line import app_parser, serve_app
from load_tests.peers.stock_litserve import load_tokenizer
from models import register_architectures


class Request(BaseModel):
    inputs: str | list[str]


def create_app() -> FastAPI:
    """What each worker of uvicorn calls; a worker is started with the command line of the main process."""
    options = parser().parse_args()
    torch.set_num_threads(options.threads)
    register_architectures()
    model = AutoModelForSequenceClassification.from_pretrained(options.model, dtype=getattr(torch, options.dtype)).eval()
    classify = pipeline(
        "text-classification",
        model=model,
        tokenizer=load_tokenizer(options.model, None, model.config),
        top_k=None,
        device="cuda" if torch.cuda.is_available() else "cpu",
    )
    app = FastAPI()

    @app.get("/health")
    def health() -> str:
        return "ok"

    @app.post("/predict")
    def predict(request: Request) -> Any:
        if isinstance(request.inputs, str):
            return classify([request.inputs], truncation=True)[0]
        return classify(request.inputs, truncation=True, batch_size=options.batch_size)

    return app


def parser() -> argparse.ArgumentParser:
    """The command line."""
    return app_parser("fastapi_pipeline", dtypes=("float32", "bfloat16", "float16"), batch="the pipeline's, for a list")


if __name__ == "__main__":
    serve_app("fastapi_pipeline", parser().parse_args())
