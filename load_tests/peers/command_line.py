"""The command line of every peer, and what the FastAPI apps among them share. A peer adds the flags that the benchmark's grid
tries."""

import argparse
from pathlib import Path


def peer_parser(name: str, *, dtypes: tuple[str, ...] = ("float32",)) -> argparse.ArgumentParser:
    """`dtypes`: what the peer computes in, the default first."""
    result = argparse.ArgumentParser(prog=f"python -m load_tests.peers.{name}")
    result.add_argument("--model", type=Path, required=True, help="checkpoint folder")
    result.add_argument("--port", type=int, default=8100)
    result.add_argument("--dtype", default=dtypes[0], choices=dtypes)
    return result


def app_parser(name: str, *, dtypes: tuple[str, ...], batch: str) -> argparse.ArgumentParser:
    """The command line of a FastAPI app; `batch` is the help text of its batch size."""
    result = peer_parser(name, dtypes=dtypes)
    result.add_argument("--workers", type=int, default=1, help="uvicorn's processes")
    result.add_argument("--threads", type=int, default=1, help="threads of one worker's forward")
    result.add_argument("--batch-size", type=int, default=8, help=batch)
    return result


def serve_app(name: str, options: argparse.Namespace) -> None:
    """Serves the peer's `create_app` until a signal. Each worker calls it, with the command line of the main process."""
    import uvicorn  # not every peer's environment holds it

    uvicorn.run(
        f"load_tests.peers.{name}:create_app",
        factory=True,
        host="127.0.0.1",
        port=options.port,
        workers=options.workers,
        access_log=False,
        log_level="warning",
    )
