"""Logits of a trained model over many texts: soft labels for a student, predictions for the quality table."""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from models.int8 import prepare_for_inference, quantize
from models.training.data import LABELS
from models.training.evaluation import Predictions, Predictor


@torch.inference_mode()
def predict_logits(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    max_tokens: int = 512,
    batch_size: int = 64,
) -> torch.Tensor:
    """Logits (texts, labels), float32 on the CPU. Texts of similar length share a batch, so little padding is computed."""
    model.eval()
    ids = tokenizer(list(texts), truncation=True, max_length=max_tokens)["input_ids"]
    order = sorted(range(len(ids)), key=lambda index: len(ids[index]))
    logits = torch.empty(len(ids), model.config.num_labels)
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        padded = tokenizer.pad({"input_ids": [ids[index] for index in batch]}, return_tensors="pt").to(model.device)
        logits[batch] = model(input_ids=padded["input_ids"], attention_mask=padded["attention_mask"]).logits.float().cpu()
    return logits


def load_predictor(checkpoint: Path, tokenizer: Path, *, int8: bool = False) -> Predictor:
    """The class of each text, an index in LABELS, with its probability, by a saved model: in float32, or with its linear layers
    in int8."""
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint, dtype=torch.float32)
    if int8:
        prepare_for_inference(model)
        quantize(model, checkpoint)
    return predictor(model, AutoTokenizer.from_pretrained(tokenizer))


def predictor(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, max_tokens: int = 512) -> Predictor:
    """The class of each text: an index of `LABELS` where the model's labels are some of them, else its own."""
    names = [model.config.id2label[index] for index in range(model.config.num_labels)]
    classes = torch.tensor([LABELS.index(name) if set(names) <= set(LABELS) else index for index, name in enumerate(names)])

    def predict(texts: Sequence[str]) -> Predictions:
        sure_S, best_S = predict_logits(model, tokenizer, texts, max_tokens=max_tokens).softmax(dim=-1).max(dim=-1)
        return Predictions(classes[best_S].tolist(), sure_S.tolist())

    return predict
