"""`python -m load_tests.generator`: one load on one running server.

python -m load_tests.generator --url http://127.0.0.1:8000/predict --connections 64 --seconds 10
"""

import argparse
import dataclasses
import json
from pathlib import Path

from load_tests.generator.load import DEFAULT_TEXTS, Load, run
from load_tests.texts import user_texts


def main() -> None:
    """Prints the report."""
    options = parser().parse_args()
    fields = {field.name: getattr(options, field.name) for field in dataclasses.fields(Load)}
    texts = options.texts.read_text(encoding="utf-8").splitlines() if options.texts else user_texts(DEFAULT_TEXTS)
    found = dataclasses.asdict(run(Load(**fields), texts))
    print(json.dumps(found) if options.json else "\n".join(f"{name}: {value}" for name, value in found.items()))


def parser() -> argparse.ArgumentParser:
    """The command line: `Load`'s fields, texts and the output's form."""
    result = argparse.ArgumentParser(prog="python -m load_tests.generator")
    result.add_argument("--url", default="http://127.0.0.1:8000/predict")
    result.add_argument("--connections", type=int, default=Load.connections)
    result.add_argument("--seconds", type=float, default=Load.seconds, help="measured; the warm-up comes before")
    result.add_argument("--warmup-s", type=float, default=Load.warmup_s)
    result.add_argument("--texts-per-request", type=int, default=Load.texts_per_request)
    result.add_argument("--model", help="the body's field model; none: not sent")
    result.add_argument("--rate", type=float, help="requests/s of an open loop; none: closed loop")
    result.add_argument("--seed", type=int, default=Load.seed, help="of the open loop's gaps")
    result.add_argument("--drain-s", type=float, default=Load.drain_s)
    result.add_argument("--processes", type=int, default=Load.processes, help="that share the connections")
    result.add_argument("--texts-field", default=Load.texts_field, help="the body's field that holds the texts")
    result.add_argument("--always-list", action="store_true", help="send a single text as a list of one")
    result.add_argument("--extra-fields", type=json.loads, default={}, help="more fields of the body, as a JSON object")
    result.add_argument("--result-mark", default=Load.result_mark, help="what a response holds for each text")
    result.add_argument("--texts", type=Path, help="a file with a text a line; none: this package's own")
    result.add_argument("--json", action="store_true", help="print JSON")
    return result


if __name__ == "__main__":
    main()
