"""`python -m service.bulk`: scores files of texts, on this machine or on a Ray cluster.

Each row of the input is a row of the output, with its columns, its label and score, or why it has none. A run that was stopped is
taken up by the same command.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from service.bulk.output import Done
    from service.bulk.ray_data import Cluster
    from service.bulk.setup import Options, Setup
    from service.bulk.sources import Part, Source
    from service.settings import Settings

# Of the service's settings, what a run takes as options of its own; the environment's `VALENCE_*` count here too.
TAKEN = (
    "import_modules", "tokenizers_dir", "trust_remote_code", "device", "dtype", "attn_implementation", "compile", "threads",
    "workers_per_device", "max_batch_tokens",
)  # fmt: skip
EXAMINED_AT_ONCE = 16


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when all is written; 1 when the run broke off; 2 when something that was asked for is wrong, said in one sentence."""
    # Read by the tokenizers of every process, and by torch's; see `service.__main__`.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "512")
    options = parser().parse_args(arguments)
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        print("bulk scoring needs the extra: pip install 'valence[bulk]'", file=sys.stderr)
        return 2
    from service.bulk.embedded import WorkerDied
    from service.bulk.progress import as_lines
    from service.bulk.setup import BadInput
    from service.logs import configure_logging
    from service.served.catalog import CatalogError

    configure_logging("info", "auto")
    try:
        summary = run(options)
    except (BadInput, CatalogError) as error:
        print(error, file=sys.stderr)
        return 2
    except WorkerDied as error:
        print(f"{error}; what is written stays, and the same command goes on from there", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    print(json.dumps(summary) if options.json else as_lines(summary))
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="python -m service.bulk", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = result.add_argument
    add("--model", required=True, help="checkpoint folder or, from a hub, org/repo@revision")
    add("--input", required=True, nargs="+", help="files, folders, patterns or URLs: Parquet, CSV, TSV, JSON lines")
    add("--output", required=True, help="folder or URL that the Parquet files are written to")
    add("--text-column", default="text", help="what is scored (text)")
    add("--text-pair-column", help="its partner, for models of text pairs")
    add("--overflow", choices=["truncate", "window", "error"], default="truncate", help="of a text beyond the model's limit")
    add("--truncation-direction", choices=["right", "left"], default="right", help="which end is cut")
    add("--function", choices=["softmax", "sigmoid", "none"], help="logits to scores; by default as the checkpoint says")
    add("--raw-scores", action="store_true", help="logits as they are: --function none")
    add("--top-k", type=positive, metavar="N", help="a column `scores` too, of the N best labels with their scores")
    add("--all-scores", action="store_true", help="a column `scores` too, of all labels")
    add("--prefix", default="", help="of the added columns, where the input has columns of their names")
    add("--limit", type=positive, metavar="ROWS", help="only the first rows, for a trial")
    add("--rows-per-file", type=positive, default=32_768, help="of the output (32768)")
    add("--ray-address", help="run on the Ray cluster at this address; `local` starts one here")
    add("--json", action="store_true", help="the summary as JSON")
    add("--quiet", action="store_true", help="no progress on standard error")
    for name in TAKEN:
        add(f"--{name.replace('_', '-')}", help="as of the service")
    return result


def positive(text: str) -> int:
    """An option's number of things."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def run(asked: argparse.Namespace) -> dict[str, Any]:
    """The summary. BadInput or CatalogError where something is wrong, WorkerDied where it broke off."""
    from service.bulk.embedded import Embedded
    from service.bulk.output import Counts, Output, manifest_of
    from service.bulk.progress import Progress
    from service.bulk.setup import Setup
    from service.bulk.sources import limited
    from service.served.catalog import load_catalog

    settings, options = settings_of(asked), options_of(asked)
    output = Output(asked.output)
    sources = limited(found_sources(asked.input, options, outside=output.url), options.limit)
    (served,) = load_catalog(settings)
    setup = Setup(settings=settings, served=served, options=options)
    cluster = cluster_at(asked.ray_address) if asked.ray_address is not None else None
    device = settings.accelerator() if cluster is None else cluster.device(settings)
    output.begin(manifest_of(setup, sources, dtype=dtype_on(device, settings)))
    done = output.done()
    before = Counts()
    for counts in output.counts(done):
        before.add(counts)
    rows = None if any(source.rows is None for source in sources) else sum(source.rows or 0 for source in sources)
    progress = Progress(rows, before=before, is_shown=not asked.quiet)
    left = [source for source in sources if source.place not in done or not done[source.place].is_all]
    if left and cluster is not None:
        cluster.run(setup, left, done, output, progress, device=device)
    elif left:
        Embedded(setup, output, progress, device=device).run(parts_left(setup, left, done))
    output.end(progress.counts)
    return progress.summary()


def settings_of(asked: argparse.Namespace) -> "Settings":
    """BadInput for a value that a setting can't have."""
    from pydantic import ValidationError

    from service.bulk.setup import BadInput
    from service.settings import Settings

    given = {name: value for name in TAKEN if (value := getattr(asked, name)) is not None}
    try:
        return Settings(models=(f"model={asked.model}",), **given)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        raise BadInput(f"--{str(fault['loc'][0]).replace('_', '-')}: {fault['msg']}") from None


def options_of(asked: argparse.Namespace) -> "Options":
    """What decides the output."""
    from service.bulk.setup import Options

    return Options(
        text_column=asked.text_column,
        text_pair_column=asked.text_pair_column,
        overflow=asked.overflow,
        truncate_left=asked.truncation_direction == "left",
        function="none" if asked.raw_scores else asked.function,
        top_k=None if asked.all_scores else asked.top_k or 0,
        prefix=asked.prefix,
        limit=asked.limit,
        rows_per_file=asked.rows_per_file,
    )


def dtype_on(device: str, settings: "Settings") -> str:
    """The arithmetic. BadInput for one that the device has not."""
    from service.bulk.setup import BadInput

    if settings.dtype == "int8" and device != "cpu":
        raise BadInput("--dtype int8 is for the CPU; on CUDA choose bfloat16, or --device cpu")
    return settings.dtype if settings.dtype != "auto" else "float32" if device == "cpu" else "bfloat16"


def found_sources(patterns: Sequence[str], options: "Options", *, outside: str) -> "list[Source]":
    """The input's files, each looked into."""
    from service.bulk.sources import examined, find_sources

    look = partial(examined, text_columns=options.text_columns, added_columns=options.added_columns)
    with ThreadPoolExecutor(EXAMINED_AT_ONCE) as pool:
        return list(pool.map(look, find_sources(patterns, outside=outside)))


def parts_left(setup: "Setup", sources: "Sequence[Source]", done: "Mapping[int, Done]") -> "Iterator[Part]":
    """Read one after another."""
    from service.bulk.sources import parts

    options = setup.options
    for source in sources:
        places = done[source.place].places if source.place in done else ()
        yield from parts(source, text_columns=options.text_columns, rows_per_file=options.rows_per_file, done=places)


def cluster_at(address: str) -> "Cluster":
    """BadInput where Ray is not installed or the cluster can't be reached."""
    from service.bulk.setup import BadInput

    try:
        from service.bulk.ray_data import Cluster
    except ImportError as error:
        raise BadInput(f"--ray-address needs the extra: pip install 'valence[bulk-ray]' ({error})") from error
    return Cluster(address)


if __name__ == "__main__":
    sys.exit(main())
