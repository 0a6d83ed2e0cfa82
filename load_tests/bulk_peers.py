"""`python -m load_tests.bulk_peers`: bulk scoring against its own bare forward, and against what people score a file with.

All run one after another on one checkpoint and the same texts, each as a command of its own; starts are not counted. The bare
forward gets texts that are tokenized already, so it bounds what bulk scoring can do. Slow peers get the first texts only. Nothing
else should run meanwhile.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from load_tests.bench.results import table
from load_tests.servers import ROOT
from load_tests.texts import user_texts

HEAD = ["what", "dtype", "texts/s", "of the bare forward", "start, s"]
DISTINCT_TEXTS = 4096
PEERS = ("pipeline", "sorted-pipeline", "datasets-map")
BATCH_SIZES = (8, 32, 128)


def main() -> int:
    """0, or 1 where a command failed."""
    options = parser().parse_args()
    try:
        with tempfile.TemporaryDirectory() as folder:
            print(table(HEAD, list(rows(options, Path(folder)))))
    except subprocess.CalledProcessError as error:
        print(f"{' '.join(map(str, error.cmd))}\n{error.stderr[-2000:]}", file=sys.stderr)
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m load_tests.bulk_peers", description=__doc__)
    result.add_argument("--model", type=Path, default=ROOT / "models/checkpoints/sentiment-bert")
    result.add_argument("--rows", type=int, default=1_000_000, help="that bulk scoring gets")
    result.add_argument("--peer-rows", type=int, default=20_000, help="that a peer gets")
    result.add_argument("--dtypes", default="float32,int8", help="of bulk scoring; peers compute in float32")
    result.add_argument("--compile", action="store_true", help="of bulk scoring and the bare forward, in int8")
    result.add_argument("--seconds", type=float, default=20.0, help="of the bare forward")
    result.add_argument("--vllm", type=Path, help="Python of an environment with vLLM")
    result.add_argument("--vllm-model", type=Path, help="the checkpoint as transformers' own BERT (load_tests.peers.convert)")
    return result


def rows(options: argparse.Namespace, folder: Path) -> Iterator[list[str]]:
    """One for each that was measured."""
    lines = user_texts(DISTINCT_TEXTS, seed=1)
    whole, first, distinct = folder / "in.jsonl", folder / "first.txt", folder / "distinct.txt"
    with whole.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"id": row, "text": lines[row % len(lines)]}) + "\n" for row in range(options.rows))
    first.write_text("\n".join(lines[row % len(lines)] for row in range(options.peer_rows)), encoding="utf-8")
    distinct.write_text("\n".join(lines), encoding="utf-8")
    for dtype in options.dtypes.split(","):
        bare = bare_forward(options, dtype, distinct)
        yield row_of("bare forward", dtype, bare, bare)
        yield row_of("bulk", dtype, bulk(options, dtype, whole, folder / f"out-{dtype}"), bare)
    yield from peers(options, first)


def bare_forward(options: argparse.Namespace, dtype: str, texts: Path) -> dict[str, Any]:
    compiled = ["--compiled"] if options.compile and dtype == "int8" else []
    command = ["-m", "service.measure.forward_rate", "--model", options.model, "--texts", texts, "--dtype", dtype, *compiled]
    return answered(Path(sys.executable), *command, "--seconds", options.seconds, "--json")


def bulk(options: argparse.Namespace, dtype: str, texts: Path, output: Path) -> dict[str, Any]:
    compiled = ["--compile", "true"] if options.compile and dtype == "int8" else []
    command = ["-m", "service.bulk", "--model", options.model, "--input", texts, "--output", output, "--dtype", dtype, *compiled]
    return answered(Path(sys.executable), *command, "--json")


def peers(options: argparse.Namespace, texts: Path) -> Iterator[list[str]]:
    """Each with the batch size that it does most with, one thread a core."""
    threads = ["--threads", len(os.sched_getaffinity(0))]
    for kind in PEERS:
        command = ["-m", "load_tests.peers.offline", kind, "--model", options.model, "--texts", texts, *threads]
        found = {size: answered(Path(sys.executable), *command, "--batch-size", size) for size in BATCH_SIZES}
        best = max(found, key=lambda size: found[size]["texts_per_s"])
        yield row_of(f"{kind}, batches of {best}", "float32", found[best])
    if options.vllm is not None:
        command = ["-m", "load_tests.peers.offline", "vllm", "--model", options.vllm_model, "--texts", texts]
        yield row_of("vLLM", "float32", answered(options.vllm, *command))


def answered(python: Path, *arguments: object) -> Any:
    """What a command prints as its last line, in JSON."""
    command = [str(python), *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def row_of(what: str, dtype: str, found: dict[str, Any], bare: dict[str, Any] | None = None) -> list[str]:
    share = "" if bare is None else f"{found['texts_per_s'] / bare['texts_per_s']:.0%}"
    start = f"{found['start_s']:.1f}" if "start_s" in found else ""
    print(f"{what}, {dtype}: {found['texts_per_s']:,.0f} texts/s", file=sys.stderr, flush=True)
    return [what, dtype, f"{found['texts_per_s']:,.0f}", share, start]


if __name__ == "__main__":
    sys.exit(main())
