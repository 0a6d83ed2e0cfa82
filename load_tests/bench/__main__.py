"""`make bench`: Valence, its peers and the bare forward, one after another in one run on one machine.

Prints markdown and writes a record: `load_tests/results/<machine>-<date>.json`, `.md` and, with matplotlib, two `.png`. JSON and
markdown are written after each configuration. Nothing else should run on the machine meanwhile.
"""

import argparse
import datetime
import json
import shlex
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from load_tests.bench.answers import CHECKED_TEXTS
from load_tests.bench.catalog import DEFAULT_PEERS, PEERS, VALENCE, Contender
from load_tests.bench.machine import describe_machine, describe_versions, slug
from load_tests.bench.markdown import to_markdown
from load_tests.bench.measuring import Plan, measure_contender, output, reason, say
from load_tests.bench.plots import save_plots
from load_tests.bench.promises import promises
from load_tests.bench.results import BATCH_TEXTS, PROMISED_CONNECTIONS, Forward, Results, neutral, to_dict, to_json
from load_tests.generator.load import DEFAULT_TEXTS
from load_tests.servers import ROOT, exit_on_sigterm
from load_tests.texts import long_text, user_texts

RESULTS = ROOT / "load_tests" / "results"
OPEN_LOOPS = ",".join(contender.name for contender in (*PEERS.values(), VALENCE) if contender.open_loop)
PYTHON = Path(sys.executable)
# Few, since the bare forward goes over all of them twice.
QUICK_TEXTS = 512


def main() -> int:
    """0, or 1 if Valence could not be measured. A peer without figures and a missed promise are printed and fail nothing."""
    options = parser().parse_args()
    contenders = [*chosen_peers(options), *((VALENCE, dtype) for dtype in options.dtypes.split(","))]
    exit_on_sigterm()
    RESULTS.mkdir(parents=True, exist_ok=True)
    results = new_results(options)
    parts = (options.machine or slug(results.machine), options.suffix, results.date, "quick" if options.quick else None)
    name = "-".join(part for part in parts if part)
    with tempfile.TemporaryDirectory(prefix="valence-bench-") as folder:
        try:
            plan = make_plan(options, Path(folder), needs_plain=any(contender.needs_plain for contender, _ in contenders))
            for dtype in options.dtypes.split(","):
                results.forwards.append(bare_forward(plan, dtype))
                if options.compiled:
                    results.forwards.append(bare_forward(plan, dtype, compiled=True))
        except subprocess.CalledProcessError as error:
            print(reason(error), file=sys.stderr)
            return 1
        save = partial(write, results, name)
        measured = [measure_contender(plan, contender, dtype, results, save) for contender, dtype in contenders]
    print(write(results, name, plots=True))
    say(f"written: {(RESULTS / name).relative_to(ROOT)}.json, .md")
    return 0 if all(found for found, (contender, _) in zip(measured, contenders, strict=True) if contender is VALENCE) else 1


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m load_tests.bench", description=__doc__)
    result.add_argument("--model", default="models/checkpoints/sentiment-bert", help="checkpoint folder, for every server")
    result.add_argument("--dtypes", default="float32,int8", help="Valence's, comma-separated: float32,bfloat16,int8")
    result.add_argument("--peers", default=",".join(DEFAULT_PEERS), help="comma-separated, as name or name:dtype; '': none")
    result.add_argument("--connections", default="1,64", help="for single texts, comma-separated")
    result.add_argument("--batch-connections", type=int, default=8, help=f"for requests of {BATCH_TEXTS} texts")
    result.add_argument("--open-connections", type=int, default=256, help="of the open loops")
    result.add_argument("--generator-processes", type=int, default=1, help="that share the connections")
    result.add_argument("--words", type=int, help="long texts of this many words instead of users' short ones")
    result.add_argument("--compiled", action="store_true", help="also measure the bare forward under torch.compile")
    result.add_argument("--seconds", type=float, default=15.0, help="of each closed loop")
    result.add_argument("--warmup-s", type=float, default=3.0, help="before each load")
    result.add_argument("--open-seconds", type=float, help="of each rate of the open loops; none: as --seconds")
    result.add_argument("--open-loops", default=OPEN_LOOPS, help="servers measured at fixed rates of arrival, comma-separated")
    result.add_argument("--idle-seconds", type=float, default=10.0)
    result.add_argument("--port", type=int, default=8100)
    result.add_argument("--no-trials", action="store_true", help="each server in its first configuration, not in its fastest")
    result.add_argument("--machine", help="the name in the results' file names; none: by processor")
    result.add_argument("--suffix", help="what comes after it there")
    result.add_argument(
        "--quick",
        action="store_true",
        help="a smoke test: 3 s a load, one configuration, peers without an environment of their own",
    )
    return result


def chosen_peers(options: argparse.Namespace) -> list[tuple[Contender, str]]:
    """Peers with their dtypes. Ends the program if a name or a dtype is not known."""
    found = []
    for part in filter(None, options.peers.split(",")):
        name, _, dtype = part.partition(":")
        peer = PEERS.get(name)
        if peer is None:
            raise SystemExit(f"no peer {name!r}; there are: {', '.join(PEERS)}")
        if dtype and dtype not in peer.dtypes:
            raise SystemExit(f"{name} computes in {', '.join(peer.dtypes)}, not in {dtype!r}")
        if not (options.quick and peer.requirements):
            found.append((peer, dtype or peer.dtypes[0]))
    return found


def new_results(options: argparse.Namespace) -> Results:
    """What is known of a run before anything is measured."""
    return Results(
        command=neutral(shlex.join(["python", "-m", "load_tests.bench", *sys.argv[1:]])),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        machine=describe_machine(),
        versions=describe_versions(),
        setup={
            "model": neutral(options.model),
            "texts": f"{count_of_texts(options)} of load_tests.texts"
            + (f", {options.words} words each" if options.words else ""),
            "generator": f"load_tests.generator, {options.generator_processes} process(es) of its own on the same machine",
            "seconds a load": f"{seconds(options):g} after {warmup_s(options):g} of warm-up; open loops {open_s(options):g}",
        },
    )


def seconds(options: argparse.Namespace) -> float:
    return min(3.0, options.seconds) if options.quick else float(options.seconds)


def warmup_s(options: argparse.Namespace) -> float:
    return 1.0 if options.quick else float(options.warmup_s)


def open_s(options: argparse.Namespace) -> float:
    return seconds(options) if options.quick or options.open_seconds is None else float(options.open_seconds)


def count_of_texts(options: argparse.Namespace) -> int:
    return QUICK_TEXTS if options.quick else DEFAULT_TEXTS


def make_plan(options: argparse.Namespace, folder: Path, *, needs_plain: bool) -> Plan:
    """Writes the texts and the checkpoint's plain form. CalledProcessError if the reference forward fails.

    1 and 64 connections are always measured, since the promises need them."""
    count = count_of_texts(options)
    texts = [long_text(options.words, seed=seed) for seed in range(count)] if options.words else user_texts(count)
    texts_file, checked_file = folder / "texts.txt", folder / "checked.txt"
    texts_file.write_text("\n".join(texts) + "\n", encoding="utf-8")
    checked_file.write_text("\n".join(texts[:CHECKED_TEXTS]) + "\n", encoding="utf-8")
    plain, no_plain = plain_form(options.model, folder / "plain") if needs_plain else (None, "")
    say("reference forward")
    return Plan(
        model=options.model,
        plain=plain,
        no_plain=no_plain,
        checked=texts[:CHECKED_TEXTS],
        expected=json.loads(
            output(
                PYTHON, "-m", "load_tests.peers.reference", "--model", str(plain or options.model), "--texts", str(checked_file)
            )
        ),
        texts=texts_file,
        port=options.port,
        folder=folder,
        seconds=seconds(options),
        warmup_s=warmup_s(options),
        open_s=open_s(options),
        idle_s=min(3.0, options.idle_seconds) if options.quick else options.idle_seconds,
        connections=sorted({int(part) for part in options.connections.split(",")} | {1, PROMISED_CONNECTIONS}),
        batch_connections=options.batch_connections,
        open_connections=options.open_connections,
        open_loops=options.open_loops.split(","),
        generator_processes=options.generator_processes,
        first_only=options.quick or options.no_trials,
    )


def plain_form(model: str, folder: Path) -> tuple[Path | None, str]:
    """The folder of the checkpoint's plain form, or None and the reason why there is none."""
    try:
        output(PYTHON, "-m", "load_tests.peers.convert", "--model", model, "--to", str(folder))
    except subprocess.CalledProcessError as error:
        return None, f"no form of {model} for a server that loads transformers' own architectures only: {error.stderr.strip()}"
    return folder, ""


def bare_forward(plan: Plan, dtype: str, *, compiled: bool = False) -> Forward:
    """Measured by the service's own command."""
    say(f"bare packed forward, {dtype}{' compiled' if compiled else ''}")
    found = json.loads(
        output(PYTHON, "-m", "service.measure.forward_rate", "--model", plan.model, "--dtype", dtype, "--texts", str(plan.texts),
               "--seconds", str(plan.seconds), "--json", *(["--compiled"] if compiled else []))
    )  # fmt: skip
    return Forward(dtype=dtype, compiled=compiled, texts_per_s=found["texts_per_s"], one_text_p50_ms=found["one_text_p50_ms"])


def write(results: Results, name: str, *, plots: bool = False) -> str:
    """Writes the record; returns its markdown."""
    content = to_dict(results) | {"promises": [promise.to_dict() for promise in promises(results)]}
    (RESULTS / f"{name}.json").write_text(to_json(content), encoding="utf-8")
    markdown = to_markdown(results)
    if plots:
        markdown += "".join(f"\n![{path.stem}]({path.name})\n" for path in save_plots(results, RESULTS / name))
    (RESULTS / f"{name}.md").write_text(markdown, encoding="utf-8")
    return markdown


if __name__ == "__main__":
    sys.exit(main())
