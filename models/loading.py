"""A checkpoint folder's classifier, and where its tokenizer lies."""

from pathlib import Path

from transformers import AutoModelForSequenceClassification, PreTrainedModel

TOKENIZERS = Path(__file__).parent.parent / "tokenizers_store"


def load_classifier(checkpoint: Path) -> PreTrainedModel:
    """In the precision of its weights. ValueError where they are not all those of the architecture: transformers would draw the
    others at random. OSError where a file is missing."""
    if not (checkpoint / "config.json").is_file():
        raise ValueError(f"{checkpoint / 'config.json'}: no such file; name a checkpoint folder")
    model, found = AutoModelForSequenceClassification.from_pretrained(
        checkpoint, use_safetensors=True, trust_remote_code=False, ignore_mismatched_sizes=True, output_loading_info=True
    )
    wrong = sorted({*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])})
    if wrong:
        raise ValueError(
            f"{checkpoint}: {len(wrong)} weights are missing or have another shape than config.json says: {wrong[0]}"
        )
    return model


def tokenizer_folder(checkpoint: Path, model: PreTrainedModel) -> Path:
    """As the service finds it: in the checkpoint, else the one of `tokenizers_store` that the config names."""
    name = getattr(model.config, "tokenizer_name", None)
    return checkpoint if (checkpoint / "tokenizer.json").is_file() or name is None else TOKENIZERS / name
