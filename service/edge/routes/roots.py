"""Where a checkpoint may lie that is served on demand."""

from collections.abc import Sequence
from pathlib import Path

from service.edge import errors

OUTSIDE = "path: must name a checkpoint folder in one of the service's model roots"


def find_checkpoint(path: str, roots: Sequence[str]) -> Path:
    """The folder that `path` names, absolute or from one of `roots`. ServiceError 422 unless it lies in one of them, with its
    files, once symbolic links are followed."""
    allowed = [Path(root).expanduser().resolve() for root in roots]
    try:
        folders = [(root / path).resolve() for root in allowed]
        folder = next((folder for folder in folders if lies_in(folder, allowed) and (folder / "config.json").is_file()), None)
        if folder is None:
            raise errors.validation(OUTSIDE)
        strays = [file.name for file in folder.iterdir() if not lies_in(file.resolve(), allowed)]
    except (OSError, ValueError, RuntimeError):  # too long, a zero byte, links in a circle
        raise errors.validation(OUTSIDE) from None
    if strays:
        raise errors.validation(f"path: {strays[0]} is a link that leads out of the service's model roots")
    return folder


def lies_in(path: Path, roots: Sequence[Path]) -> bool:
    """For a path without links."""
    return any(path.is_relative_to(root) for root in roots)
