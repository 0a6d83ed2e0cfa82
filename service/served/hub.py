"""A checkpoint on a hub, `org/repo` or `org/repo@revision`, as a folder of the local cache.

Weights come as safetensors only. A branch or tag is resolved once, at start, so that every process serves the same commit.
huggingface_hub itself reads `HF_ENDPOINT`, `HF_TOKEN`, `HF_HOME` and `HF_HUB_OFFLINE`.
"""

import multiprocessing
import re
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = re.compile(r"(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(?:@(?P<revision>[\w./-]+))?")
# Only files at the repository's root: folders below it hold other formats of the same weights.
FILES, CODE, NOT_THESE = ("*.json", "*.txt", "*.safetensors"), "*.py", "*/*"


class HubError(ValueError):
    """A checkpoint can't be had from the hub; the message says which and why."""


@dataclass(frozen=True)
class Snapshot:
    """A folder that holds one commit of a repository."""

    repo: str
    revision: str
    commit: str
    path: Path


def names_repository(value: str) -> bool:
    """Whether `value` has the form of a hub's repository, and no folder of that name exists.

    >>> names_repository("org/repo@v1.0"), names_repository("/srv/repo"), names_repository("models/checkpoints")
    (True, False, False)
    """
    return REPOSITORY.fullmatch(value) is not None and not Path(value).expanduser().exists()


def fetch(value: str, *, with_code: bool) -> Snapshot:
    """The repository as a folder of the cache; downloads what is not there yet. Raises HubError.

    A process of its own downloads, since downloads start threads and the service forks its HTTP processes later.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_fetch, value, with_code=with_code).result()


def _fetch(value: str, *, with_code: bool) -> Snapshot:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    match = REPOSITORY.fullmatch(value)
    assert match is not None
    repo, revision = match["repo"], match["revision"] or constants.DEFAULT_REVISION
    try:
        folder = snapshot_download(
            repo, revision=revision, allow_patterns=[*FILES, *([CODE] if with_code else [])], ignore_patterns=NOT_THESE
        )
    except RepositoryNotFoundError:
        raise HubError(f"{repo}: no such folder, and {constants.ENDPOINT} has no such repository that HF_TOKEN opens") from None
    except RevisionNotFoundError:
        raise HubError(f"{repo}: {constants.ENDPOINT} has no revision {revision!r} of it") from None
    except LocalEntryNotFoundError:
        why = "HF_HUB_OFFLINE is set" if constants.is_offline_mode() else f"{constants.ENDPOINT} can't be reached"
        raise HubError(f"{repo}: no such folder, {why}, and the cache does not hold revision {revision!r}") from None
    except (HTTPError, OSError, ValueError) as error:
        raise HubError(f"{repo}: {str(error).strip().splitlines()[0]}") from None
    return Snapshot(repo, revision, commit=Path(folder).name, path=Path(folder))
