"""What is wrong with a config.json: fields that no one knows, fields that no one reads, figures that don't fit the tokenizer.

Unknown fields are looked for in the file, before anything is loaded: this project's architectures refuse them, transformers' own
keep them without a word. Which fields are read is seen by watching: the configuration notes what is asked of it while a model is
built and computes a loss.
"""

import copy
import difflib
import inspect
import json
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedTokenizerBase

from models.inspect.gradients import targets_of
from models.inspect.report import Cell, Section
from models.inspect.subject import TEXTS, Subject

# Fields that no class declares but any file may hold: the library's bookkeeping.
BOOKKEEPING = frozenset(
    {
        "architectures",
        "auto_map",
        "dtype",
        "torch_dtype",
        "model_type",
        "transformers_version",
        "_name_or_path",
        "attn_implementation",
        "_attn_implementation",
        "label2id",
        "id2label",
        "num_labels",
        "problem_type",
        "use_cache",
        "is_encoder_decoder",
    }
)
# Read by the service and by whatever loads the tokenizer, not by the model.
READ_ELSEWHERE = frozenset({"tokenizer_name", "max_position_embeddings", "pad_token_id", "bos_token_id", "eos_token_id"})


def unknown_fields(folder: Path) -> Section | None:
    """The fields of config.json that its architecture does not have, with what may have been meant; None where there is none, or
    the architecture is not known. Nothing is loaded. ValueError where the file is no JSON object."""
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{path}: no such file; name a checkpoint folder")
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(stored, dict):
        raise ValueError(f"{path}: must hold a JSON object")
    known = known_fields(str(stored.get("model_type")))
    if known is None:
        return None
    rows: list[tuple[Cell, ...]] = [
        (field, "unknown", suggestion(field, known))
        for field in sorted(stored)
        if field not in known and field not in BOOKKEEPING
    ]
    return Section("config", ("field", "finding", "detail"), rows) if rows else None


def known_fields(model_type: str) -> frozenset[str] | None:
    """Of an architecture that is registered; None for another."""
    if model_type not in CONFIG_MAPPING:
        return None
    kind = CONFIG_MAPPING[model_type]
    declared = getattr(kind, "__dataclass_fields__", None) or inspect.signature(kind).parameters
    return frozenset(declared) | frozenset(kind.attribute_map)


def suggestion(field: str, known: frozenset[str]) -> str:
    """
    >>> suggestion("hiden_size", frozenset({"hidden_size", "vocab_size"}))
    "did you mean 'hidden_size'?"
    """
    near = difflib.get_close_matches(field, known, n=1)
    return f"did you mean {near[0]!r}?" if near else "nothing has a name like it"


def config(subject: Subject) -> Section:
    """Unknown fields, fields that were set to something and that nothing reads, and what does not fit the tokenizer."""
    stored = json.loads((subject.folder / "config.json").read_text(encoding="utf-8"))
    found = subject.model.config
    unknown = unknown_fields(subject.folder)
    rows = list(unknown.rows) if unknown is not None else []
    told = {row[0] for row in rows}
    defaults = {name: field.default for name, field in getattr(type(found), "__dataclass_fields__", {}).items()}
    unread = [field for field in unread_fields(subject) if field not in told]
    idle = [field for field in unread if field not in stored or (field in defaults and stored[field] == defaults[field])]
    rows += [(field, "never read", "the model does not ask for it") for field in unread if field not in idle]
    rows += misfits(found, subject.tokenizer)
    notes = [f"{len(rows) or 'No'} finding{'s' * (len(rows) != 1)}, in {len(stored)} fields."]
    if idle:
        notes.append(f"At their defaults, and not read by this model: {', '.join(idle)}.")
    return Section("config", ("field", "finding", "detail"), rows, notes)


def unread_fields(subject: Subject) -> list[str]:
    """Fields that a model does not ask of its configuration while it is built, computes a loss in training and scores. Looked at
    are those that the architecture declares beyond the library's own, and those in the file."""
    watched = copy.deepcopy(subject.model.config)
    read = watch(watched)
    batch = subject.batch(TEXTS[:2])
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        model = type(subject.model)(watched)
        model.train()(**batch, labels=targets_of(model, [0, 1], wrap=True))
        model.eval()(**batch)
    stored = json.loads((subject.folder / "config.json").read_text(encoding="utf-8"))
    declared = set(getattr(type(subject.model.config), "__dataclass_fields__", ())) - set(PreTrainedConfig.__dataclass_fields__)
    asked = read | READ_ELSEWHERE
    own_names = {
        watched.attribute_map[name] for name in asked if name in watched.attribute_map
    }  # GPT-2's n_head for num_attention_heads
    return sorted((declared | set(stored)) - asked - own_names - BOOKKEEPING)


def watch(watched: PreTrainedConfig) -> set[str]:
    """Has a configuration note which attributes are asked of it: the set grows as it is used."""
    read: set[str] = set()
    kind = type(watched)

    def getattribute(self: PreTrainedConfig, name: str) -> Any:
        read.add(name)
        return super(watching, self).__getattribute__(name)

    watching: Any = type(kind.__name__, (kind,), {"__getattribute__": getattribute, "__module__": kind.__module__})
    watched.__class__ = watching
    read.clear()
    return read


def misfits(found: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> list[tuple[Cell, ...]]:
    """Figures of the configuration that the tokenizer contradicts."""
    rows: list[tuple[Cell, ...]] = []
    if len(tokenizer) > found.vocab_size:
        rows.append(("vocab_size", "too small", f"{found.vocab_size}, but the tokenizer has {len(tokenizer)} tokens"))
    pad = getattr(found, "pad_token_id", None)
    if tokenizer.pad_token_id is not None and pad is not None and pad != tokenizer.pad_token_id:
        rows.append(("pad_token_id", "differs", f"{pad}, but the tokenizer pads with {tokenizer.pad_token_id}"))
    unnamed = [label for label in found.id2label.values() if str(label).startswith("LABEL_")]
    if unnamed:
        rows.append(("id2label", "unnamed", f"answers will say {unnamed[0]}"))
    return rows
