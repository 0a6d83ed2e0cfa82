"""What a checkpoint's config.json says of it: class, labels, limit; and which configurations are refused."""

import inspect
import re
from pathlib import Path
from typing import Any

import transformers
from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, AutoConfig, PreTrainedConfig, PreTrainedModel

from service.served.refusal import CatalogError, check_readable, reading

DEFAULT_MAX_LENGTH = 512
# How configurations call the longest text; most of transformers' own map theirs to the first.
LIMITS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_seq_length", "max_sequence_length", "seq_length")
# A tokenizer that knows no limit has 10^30.
NO_LIMIT = 10**9
# What a forward reads beside the tokens of a text and can't do without, by what it is.
NOT_TEXT = {
    "bbox": "the place of each word on a page",
    "xpath_tags_seq": "the place of each word in a page's HTML",
}
# Heads for something else whose weights may fit all the same.
OTHER_HEADS = re.compile(r"For(TokenClassification|QuestionAnswering|MultipleChoice|\w*(?:Image|Audio|Video)\w*)$")
# The package of a method of quantization, where it is not called as the method.
QUANTIZERS = {
    "bitsandbytes": "bitsandbytes",
    "gptq": "gptqmodel",
    "awq": "gptqmodel",
    "quanto": "optimum-quanto",
    "compressed-tensors": "compressed-tensors",
    "auto-round": "auto-round",
    "fp8": "kernels",
    "mxfp4": "kernels",
}


def read_config(path: Path, *, trust_remote_code: bool) -> PreTrainedConfig:
    """The configuration of a folder. CatalogError where it can't be had."""
    file = path / "config.json"
    check_readable(path)
    check_readable(file)
    with reading(file):
        try:
            config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
        except (ValueError, OSError) as error:
            if "trust_remote_code" in str(error):
                raise CatalogError(
                    f"{file}: an architecture that is not registered, with code of its own; read it, then give "
                    "--trust-remote-code, or register the architecture by --import-modules"
                ) from error
            raise
    _check_quantization(config, file)
    return config


def classifier_class(config: PreTrainedConfig, path: Path, *, trust_remote_code: bool) -> type[PreTrainedModel] | None:
    """The class that classifies texts; None where code of the checkpoint brings it. CatalogError where there is none, or where it
    takes other inputs than text."""
    file = path / "config.json"
    with reading(file):
        found = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(config), None)
    model_class: type[PreTrainedModel] | None = found[0] if isinstance(found, tuple) else found
    brings_code = trust_remote_code and "AutoModelForSequenceClassification" in (getattr(config, "auto_map", None) or {})
    if brings_code and (model_class is None or model_class.__module__.startswith("transformers.")):
        return None
    if model_class is None:
        raise CatalogError(
            f"{file}: {type(config).__name__} has no class for AutoModelForSequenceClassification{_others(config)}; "
            "register one by --import-modules, or serve a checkpoint of a text classifier"
        )
    _check_inputs(model_class, file)
    saved = next(iter(getattr(config, "architectures", None) or [""]))
    if saved != model_class.__name__ and OTHER_HEADS.search(str(saved)):
        raise CatalogError(f"{file}: saved by {saved}, which is no text classifier; serve a checkpoint of {model_class.__name__}")
    return model_class


def built_from(config: PreTrainedConfig, model_class: type[PreTrainedModel] | None) -> PreTrainedConfig:
    """The configuration that the class is built from: of a composite one the Auto class takes the text's, where the class is for
    that."""
    text = getattr(config, "sub_configs", {}).get("text_config")
    if model_class is not None and text is not None and getattr(model_class, "config_class", None) is text:
        return config.get_text_config()
    return config


def labels_of(config: PreTrainedConfig, file: Path) -> tuple[str, ...]:
    """The names of the labels, by index. CatalogError where an index has none."""
    with reading(file):
        names, count = config.id2label, config.num_labels
        if set(names) != set(range(count)):
            raise CatalogError(f"{file}: id2label names {sorted(names)}; number the labels from 0 to {count - 1}")
        return tuple(str(names[index]) for index in range(count))


def claimed_length(config: PreTrainedConfig, model_max_length: object) -> int:
    """The longest text in tokens that configuration and tokenizer claim: the least that either says, else 512."""
    said = [fact(config, name) for name in LIMITS]
    limits = [int(value) for value in (*said, model_max_length) if isinstance(value, int | float) and 0 < value < NO_LIMIT]
    return min(limits, default=DEFAULT_MAX_LENGTH)


def fact(config: PreTrainedConfig, name: str) -> Any:
    """A field of a configuration, or of its part for text; None where neither has it."""
    value = getattr(config, name, None)
    if value is not None:
        return value
    try:
        return getattr(config.get_text_config(), name, None)
    except (AttributeError, ValueError):  # two parts for text
        return None


def _check_inputs(model_class: type[PreTrainedModel], file: Path) -> None:
    _, *takes = inspect.signature(model_class.forward).parameters.values()
    names = [parameter.name for parameter in takes if parameter.kind is not parameter.VAR_KEYWORD]
    if "input_ids" not in names and (names or not takes):
        raise CatalogError(
            f"{file}: the forward of {model_class.__name__} takes {', '.join(names[:3]) or 'nothing'} and no input_ids; "
            "only classifiers of text are served"
        )
    for name, meaning in NOT_TEXT.items():
        if name in names:
            raise CatalogError(
                f"{file}: {model_class.__name__} takes {name}, {meaning}, and not text alone; only classifiers of text are served"
            )


def _check_quantization(config: PreTrainedConfig, file: Path) -> None:
    found = fact(config, "quantization_config")
    if not found:
        return
    fields = found if isinstance(found, dict) else found.to_dict()
    method = str(getattr(fields.get("quant_method"), "value", fields.get("quant_method") or "")).lower()
    if not method:
        method = "bitsandbytes" if any(str(name).startswith(("load_in_", "bnb_")) for name in fields) else "an unnamed method"
    package = QUANTIZERS.get(method, method)
    raise CatalogError(
        f"{file}: quantization_config: weights quantized by {method} need the package {package} and are not served; save the "
        "model dequantized (model.dequantize(), then save_pretrained), and choose --dtype"
    )


def _others(config: PreTrainedConfig) -> str:
    """The Auto classes that do know it, as ", but for AutoModelForImageClassification"."""
    names = sorted(
        name
        for name in dir(transformers)
        if name.startswith("AutoModelFor") and type(config) in getattr(getattr(transformers, name), "_model_mapping", ())
    )
    return f", but for {', '.join(names[:3])}" if names else ""
