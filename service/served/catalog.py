"""The served models as the HTTP processes know them: names, labels, limits. No weights are loaded here."""

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from transformers import PreTrainedConfig

from service.served.adapter import Adapter, base_folder, is_adapter, read_adapter, with_labels
from service.served.configuration import built_from, claimed_length, classifier_class, labels_of, read_config
from service.served.files import check_ranges, check_weights, weights_digest
from service.served.hub import HubError, fetch, names_repository
from service.served.refusal import CatalogError, check_readable, reading
from service.served.registration import register_all
from service.served.tokenizer import find_tokenizer, load_tokenizer
from service.settings import Settings

__all__ = ["CatalogError", "ServedModel", "load_catalog", "load_tokenizer", "register_all", "served_model", "weights_digest"]

log = logging.getLogger("valence.catalog")


@dataclass(frozen=True)
class ServedModel:
    """One name that clients may ask for. `max_length` is in tokens, special ones included: the least that model and tokenizer
    claim to take. `weights` tells two checkpoints apart by what their files hold, `version` is the operator's word for it,
    `since` when it was read (ISO 8601). `source`: repository and commit, `org/repo@<40 digits>`, of one that came from a hub.
    `base`: the folder of the model that `path`, an adapter, is merged into."""

    name: str
    path: Path
    tokenizer_path: Path
    architecture: str
    labels: tuple[str, ...]
    problem_type: str | None
    max_length: int
    weights: str
    version: str | None
    since: str
    source: str | None = None
    base: Path | None = None

    @property
    def folders(self) -> tuple[Path, ...]:
        """Where its weights lie."""
        return (self.path,) if self.base is None else (self.path, self.base)


def load_catalog(settings: Settings) -> list[ServedModel]:
    """Every model of the settings, in their order; CatalogError for the first that can't be served."""
    register_all(settings.import_modules)
    served = [_served_model(entry, settings) for entry in settings.models]
    if not served:
        raise CatalogError("no model to serve: give --models name=folder")
    names = [model.name for model in served]
    if len(set(names)) != len(names):
        raise CatalogError(f"two models have one name: {', '.join(names)}")
    return served


def _served_model(entry: str, settings: Settings) -> ServedModel:
    name, separator, folder = entry.partition("=")
    if not separator or not name or "/" in name:
        raise CatalogError(f"--models {entry!r}: write name=folder, the name without a slash")
    path, source = _find(folder, settings)
    return served_model(name, path, settings, source=source)


def served_model(
    name: str, path: Path, settings: Settings, *, version: str | None = None, source: str | None = None
) -> ServedModel:
    """The checkpoint of a folder under a name; CatalogError if it can't be served."""
    with reading(path):
        return _read(name, path, settings, version=version, source=source)


def _read(name: str, path: Path, settings: Settings, *, version: str | None, source: str | None) -> ServedModel:
    if path.is_dir():
        check_readable(path)
    adapter = read_adapter(path) if is_adapter(path) else None
    base = None if adapter is None else _base(adapter, settings, from_hub=source is not None)
    checkpoint = base or path
    if not (checkpoint / "config.json").is_file():
        raise CatalogError(f"{checkpoint / 'config.json'}: no such file; --models {name} must name a checkpoint folder")
    check_weights(checkpoint)
    if settings.dtype == "int8":
        if adapter is not None:
            raise CatalogError(f"{adapter.file}: --dtype int8 is not for an adapter; save the merged model, or choose float32")
        check_ranges(path)
    config = _config(checkpoint, adapter, settings)
    folders = (path,) if base is None else (path, base)
    tokenizer_path, tokenizer = find_tokenizer(folders, config, settings.tokenizers_dir)
    max_length = claimed_length(config, tokenizer.model_max_length)
    if max_length <= (special := tokenizer.num_special_tokens_to_add()):
        raise CatalogError(f"{path}: a limit of {max_length} tokens, of which {special} are special, leaves none for a text")
    return ServedModel(
        name=name,
        path=path,
        tokenizer_path=tokenizer_path,
        architecture=config.model_type,
        labels=labels_of(config, checkpoint / "config.json"),
        problem_type=config.problem_type,
        max_length=max_length,
        weights=weights_digest(*folders),
        version=version,
        since=datetime.now(UTC).isoformat(timespec="seconds"),
        source=source,
        base=base,
    )


def _config(checkpoint: Path, adapter: Adapter | None, settings: Settings) -> PreTrainedConfig:
    """The configuration that the classifier is built from."""
    config = read_config(checkpoint, trust_remote_code=settings.trust_remote_code)
    model_class = classifier_class(config, checkpoint, trust_remote_code=settings.trust_remote_code)
    config = built_from(config, model_class)
    return config if adapter is None else with_labels(config, adapter, model_class)


def _find(folder: str, settings: Settings) -> tuple[Path, str | None]:
    """The checkpoint's folder, and its repository and commit where it comes from a hub."""
    if not names_repository(folder):
        return Path(folder).expanduser().resolve(), None
    try:
        snapshot = fetch(folder, with_code=settings.trust_remote_code)
    except HubError as error:
        raise CatalogError(str(error)) from error
    log.info("%s: revision %s is commit %s", snapshot.repo, snapshot.revision, snapshot.commit)
    return snapshot.path, f"{snapshot.repo}@{snapshot.commit}"


def _base(adapter: Adapter, settings: Settings, *, from_hub: bool) -> Path:
    """The folder of an adapter's base. An adapter from a hub names a repository: it knows nothing of this machine's folders."""
    folder = None if from_hub else base_folder(adapter)
    if folder is None:
        repository = adapter.base if adapter.revision is None else f"{adapter.base}@{adapter.revision}"
        if not names_repository(repository):
            raise CatalogError(
                f"{adapter.file}: its base_model_name_or_path {adapter.base} is not there; "
                "write the base's folder or its repository into it"
            )
        folder, _ = _find(repository, settings)
    if is_adapter(folder):
        raise CatalogError(f"{adapter.file}: its base {folder} is an adapter too; merge that one first")
    return folder
