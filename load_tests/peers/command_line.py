"""The command line that every peer takes; what a peer adds to it is what the benchmark's grid tries."""

import argparse
from pathlib import Path


def peer_parser(name: str, *, dtypes: tuple[str, ...] = ("float32",)) -> argparse.ArgumentParser:
    """`dtypes`: what the peer computes in, the default first."""
    result = argparse.ArgumentParser(prog=f"python -m load_tests.peers.{name}")
    result.add_argument("--model", type=Path, required=True, help="checkpoint folder")
    result.add_argument("--port", type=int, default=8100)
    result.add_argument("--dtype", default=dtypes[0], choices=dtypes)
    return result
