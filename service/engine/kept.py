"""What was found out about serving a model, kept on disk so that the next start need not find it out again.

It holds for one checkpoint, tokenizer, machine, arithmetic and version of the libraries. Without `--tuning-dir` nothing is kept.
"""

import hashlib
import json
import logging
import platform
from pathlib import Path

import msgspec
import torch
import transformers

from service import __version__
from service.served.catalog import ServedModel
from service.settings import Settings

log = logging.getLogger("valence.worker")
CPU_INFO = Path("/proc/cpuinfo")


class Way(msgspec.Struct, frozen=True):
    """A way of serving. `batching`: packed, padded, equal lengths, or one by one. `all_types`: token types are given where all
    are 0, too. `own_layers`: those of `models/cpu`, the compiler's and graphs, where there are any. `no_padding_id`: a model that
    asks for its padding token is told one that no text holds."""

    batching: str
    all_types: bool = False
    own_layers: bool = True
    no_padding_id: bool = False

    def __str__(self) -> str:
        """As the log and `/info` name it."""
        extras = {
            "with all token types": self.all_types,
            "by torch's layers": not self.own_layers,
            "with no padding token": self.no_padding_id,
        }
        return ", ".join([self.batching, *(extra for extra, holds in extras.items() if holds)])


class Proven(msgspec.Struct, frozen=True):
    """The way that was proven, and by how much its logits were off; why others were refused."""

    way: Way
    max_length: int
    labels: tuple[str, ...]
    difference: str
    refused: tuple[str, ...] = ()


class KeptProofs:
    """The file of one model."""

    def __init__(self, settings: Settings, served: ServedModel, *, device: str) -> None:
        folder = settings.tuning_dir
        self._path = None if folder is None else folder / f"proof-{_key(settings, served, device)}.json"

    def read(self) -> Proven | None:
        """What an earlier start found; None where there is nothing, or nothing of use."""
        if self._path is None:
            return None
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Proven)
        except (OSError, msgspec.DecodeError):
            return None

    def write(self, proven: Proven) -> None:
        """Written aside and renamed: several workers may do so at a time. A folder that can't be written is said, and no more."""
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            new = self._path.with_suffix(f".{id(self)}.new")
            new.write_bytes(msgspec.json.encode(proven))
            new.replace(self._path)
        except OSError as error:
            log.warning("--tuning-dir %s can't be written: %s", self._path.parent, error.strerror)


def _key(settings: Settings, served: ServedModel, device: str) -> str:
    """A hash of all that a proof depends on."""
    facts = {
        "model": [served.weights, served.max_length, served.labels],
        "tokenizer": [hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(served.tokenizer_path.glob("*token*"))],
        "processor": torch.cuda.get_device_name(device) if device.startswith("cuda") else _processor(),
        "versions": [__version__, torch.__version__, transformers.__version__],
        "settings": settings.model_dump(include={"dtype", "attn_implementation", "compile", "cuda_graphs"}),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _processor() -> str:
    try:
        lines = CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.machine()
    return next((line for line in lines if line.startswith("model name")), platform.machine())
