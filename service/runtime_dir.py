"""The folder of one running service: files that its processes leave for each other. It is removed when the service ends."""

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

PREFIX = "valence-"
LOCK = "alive"


class RuntimeDir:
    """Names each file of the folder. prometheus_client keeps the files of all processes there too."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.roster = path / "models.json"
        self.followers = path / "followers"
        self.encoders = path / "encoders"  # how each model's texts are encoded, by its place
        self.refusal = path / "refused"  # why a worker could not load a model: one sentence
        self.busy_cores = path / "busy"
        self.speaker = path / "speaker"  # locked by the HTTP process that logs for all

    def socket(self, worker: int) -> Path:
        """The Unix socket that a worker listens on."""
        return self.path / f"worker-{worker}.sock"

    @classmethod
    def create(cls) -> "RuntimeDir":
        """Makes a new folder, and removes those of services that were killed.

        The folder counts as in use as long as this process, or one forked from it, lives."""
        remove_abandoned(Path(tempfile.gettempdir()))
        path = Path(tempfile.mkdtemp(prefix=PREFIX))
        new = path / f"{LOCK}.new"
        fcntl.flock(os.open(new, os.O_RDWR | os.O_CREAT, 0o600), fcntl.LOCK_EX)  # held until the process ends
        new.rename(path / LOCK)  # only once it is locked: a start removes folders with a free lock
        return cls(path)

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def remove_abandoned(parent: Path) -> None:
    """Removes the folders whose lock nobody holds: their services are gone. Folders of other users stay."""
    for lock in parent.glob(f"{PREFIX}*/{LOCK}"):
        with suppress(OSError), lock.open("r+b") as opened:
            if locked(opened.fileno()):
                shutil.rmtree(lock.parent, ignore_errors=True)


def locked(descriptor: int) -> bool:
    """Takes the lock of an open file unless another process has it, and says whether it is ours. Closing the file ends it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
