"""Models are added, replaced and removed while the service runs: two HTTP processes, two workers. The tests run in order."""

import json
import shutil
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from safetensors.numpy import load_file, save_file

ADMIN = {"authorization": "Bearer adm1n"}
TEXT = "a wonderful film"
SAFETY_S = 120


@pytest.fixture(scope="module")
def root(models: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model root with two checkpoints of one architecture, `first` and `second`, whose scores differ."""
    root = tmp_path_factory.mktemp("root")
    for name in ("first", "second"):
        shutil.copytree(models["tiny-bert"], root / name)
    weights = load_file(root / "second" / "model.safetensors")
    weights |= {name: -array for name, array in weights.items() if name.startswith("classifier.")}
    save_file(weights, root / "second" / "model.safetensors", {"format": "pt"})
    return root


@pytest.fixture(scope="module")
def served(root: Path, start_server: Callable[..., Any]) -> Any:
    flags = ("--http-processes", "2", "--workers-per-device", "2", "--model-roots", str(root), "--admin-key", "adm1n")
    return start_server(*flags)


def put(served: Any, name: str, path: object, **fields: Any) -> httpx.Response:
    body = {"name": name, "path": str(path), **fields}
    return served.client.post("/models", json=body, headers=ADMIN, timeout=SAFETY_S)


def fresh(served: Any, method: str, path: str, **options: Any) -> list[httpx.Response]:
    """The answers to several requests on connections of their own, so that each HTTP process is likely to give some."""
    return [httpx.request(method, served.url + path, timeout=SAFETY_S, trust_env=False, **options) for _ in range(12)]


def scores(answer: httpx.Response) -> dict[str, float]:
    return {item["label"]: round(item["score"], 4) for item in answer.json()}


def listed(served: Any) -> dict[str, dict[str, Any]]:
    return {model["name"]: model for model in served.client.get("/models").json()}


def test_what_was_there_at_the_start_is_listed(served: Any) -> None:
    (model,) = served.client.get("/models").json()
    assert (model["name"], model["architecture"], model["version"], model["state"]) == ("failing", "failing", None, "ready")
    assert len(model["weights"]) == 12


@pytest.mark.parametrize(
    ("headers", "status"), [({}, 401), ({"authorization": "Bearer wrong"}, 401), ({"x-api-key": "adm1n"}, 422)]
)
def test_the_admin_key_is_asked_for(served: Any, headers: dict[str, str], status: int) -> None:
    assert served.client.post("/models", json={"name": "a", "path": "no such"}, headers=headers).status_code == status
    if status == 401:
        assert served.client.delete("/models/failing", headers=headers).status_code == status


def test_a_model_is_added_on_every_process(served: Any, root: Path) -> None:
    answer = put(served, "bert", root / "first", version="2026-11")
    assert answer.status_code == 201, answer.text
    added = answer.json()
    found = (added["name"], added["version"], added["architecture"], added["state"])
    assert found == ("bert", "2026-11", "valence_bert", "ready")
    answers = fresh(served, "POST", "/models/bert/predict", json={"inputs": TEXT})
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.headers["x-model"] for answer in answers} == {"bert"}
    described = {model["name"]: model for model in served.client.get("/info").json()["models"]}["bert"]
    assert (described["version"], described["weights"], len(described["workers"])) == ("2026-11", added["weights"], 2)
    assert served.metric("valence_model_info", model="bert", architecture="valence_bert") == 1


def test_a_worker_that_dies_comes_back_with_the_added_model(served: Any, wait: Callable[..., None]) -> None:
    before = listed(served)
    served.workers()[0].kill()
    wait(lambda: served.client.get("/ready").status_code == 503, timeout_s=SAFETY_S, alive=served)
    served.wait_until_ready()
    wait(lambda: listed(served) == before, timeout_s=SAFETY_S, alive=served)
    assert [len(model["workers"]) for model in served.client.get("/info").json()["models"]] == [2, 2]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: served.predict(TEXT, model="bert"), range(64)))
    assert {answer.status_code for answer in answers} == {200}


def test_under_load_each_answer_is_of_the_old_or_the_new_weights_and_then_of_the_new_only(served: Any, root: Path) -> None:
    old = scores(served.predict(TEXT, model="bert"))
    replaced_at: list[float] = []
    stop = threading.Event()

    def ask(_: int) -> list[tuple[float, httpx.Response]]:
        found = []
        while not stop.is_set():
            sent_at = time.monotonic()
            found.append((sent_at, served.predict(TEXT, model="bert")))
        return found

    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, number) for number in range(8)]
        try:
            answer = put(served, "bert", "second", version="2026-12")
            replaced_at.append(time.monotonic())
            time.sleep(0.5)
        finally:
            stop.set()
    assert answer.status_code == 200, answer.text
    new = scores(served.predict(TEXT, model="bert"))
    assert new != old
    found = [one for future in asked for one in future.result()]
    assert {answer.status_code for _, answer in found} == {200}
    assert all(scores(answer) in (old, new) for _, answer in found)
    after = [scores(answer) for sent_at, answer in found if sent_at > replaced_at[0]]
    assert len(after) > 8
    assert all(one == new for one in after)
    assert len({scores(answer) == new for _, answer in found}) == 2  # some were scored by the old weights


def test_the_place_given_up_is_dropped_by_the_workers(served: Any, wait: Callable[..., None]) -> None:
    assert list(listed(served)) == ["failing", "bert"]
    wait(lambda: served.log.read_text().count("dropped the model of place") >= 2, timeout_s=10, alive=served)


def test_what_is_in_flight_ends_on_the_model_that_is_removed(served: Any, models: Mapping[str, Path], root: Path) -> None:
    shutil.copytree(models["failing"], root / "slow")
    assert put(served, "slow", root / "slow").status_code == 201
    with ThreadPoolExecutor(6) as pool:
        accepted = [pool.submit(served.predict, "slow", model="slow") for _ in range(6)]
        time.sleep(0.5)  # the slow text takes 1.5 s: two batches run, and the others wait in the workers' queues
        answer = served.client.delete("/models/slow", headers=ADMIN)
        assert (answer.status_code, answer.json()) == (200, {"name": "slow", "state": "removed"})
        assert not all(future.done() for future in accepted)
        later = fresh(served, "POST", "/models/slow/predict", json={"inputs": "good"})
        assert {answer.status_code for answer in later} == {404}
        assert [future.result(SAFETY_S).status_code for future in accepted] == [200] * 6
    assert list(listed(served)) == ["failing", "bert"]
    assert served.metric("valence_model_info", model="slow", architecture="failing") == 0
    assert served.client.delete("/models/slow", headers=ADMIN).status_code == 404


BODIES = {
    "/models/swapped/predict": b'{"inputs": "good"}',
    "/predict": b'{"inputs": "good", "model": "swapped"}',
    "/classify": b'{"input": "good", "model": "swapped"}',
    "/tokenize": b'{"inputs": "good", "model": "swapped"}',
    "/v2/models/swapped/infer": b'{"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["good"]}]}',
}


@pytest.mark.parametrize(("change", "status"), [("replaced", 200), ("removed", 404)])
def test_a_model_that_changes_while_a_body_is_on_its_way(served: Any, root: Path, change: str, status: int) -> None:
    assert put(served, "swapped", root / "first").status_code in (200, 201)
    host, port = served.url.removeprefix("http://").split(":")
    with ExitStack() as stack:
        begun = {path: stack.enter_context(socket.create_connection((host, int(port)), SAFETY_S)) for path in BODIES}
        for path, client in begun.items():
            head = b"POST %b HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b"
            client.sendall(head % (path.encode(), len(BODIES[path]), BODIES[path][:5]))
        time.sleep(0.2)
        if change == "removed":
            assert served.client.delete("/models/swapped", headers=ADMIN).status_code == 200
        else:
            assert put(served, "swapped", root / "second").status_code == 200
        for path, client in begun.items():
            client.sendall(BODIES[path][5:])
            assert client.recv(4096).startswith(b"HTTP/1.1 %d " % status), path


def test_the_default_model_is_not_removed_but_may_be_replaced(served: Any, models: Mapping[str, Path], root: Path) -> None:
    answer = served.client.delete("/models/failing", headers=ADMIN)
    assert (answer.status_code, answer.json()["error_type"]) == (409, "conflict")
    assert put(served, "failing", root / "slow", version="2").status_code == 200
    assert list(listed(served)) == ["failing", "bert"]
    assert {answer.headers["x-model"] for answer in fresh(served, "POST", "/predict", json={"inputs": "good"})} == {"failing"}


def edit_config(folder: Path, **fields: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def take_weights_of_another(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({f"other.{name}": array for name, array in weights.items()}, folder / "model.safetensors", {"format": "pt"})


def widen(folder: Path) -> None:
    edit_config(folder, intermediate_size=64)


def take_a_tokenizer_of_another(folder: Path) -> None:
    edit_config(folder, vocab_size=10)


def lose_the_scores(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({name: array + float("nan") for name, array in weights.items()}, folder / "model.safetensors", {"format": "pt"})


def point_out(folder: Path) -> None:
    edit_config(folder, tokenizer_name="../elsewhere")
    (folder / "tokenizer.json").unlink()


def index_outside(folder: Path) -> None:
    index = {"metadata": {}, "weight_map": {"a": "../second/model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def announce_more_than_memory(folder: Path) -> None:
    """Writes a header that asks for 2**47 bytes, in a file that does not hold them."""
    header = json.dumps({"a": {"dtype": "F32", "shape": [2**45], "data_offsets": [0, 2**47]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (truncate, "broken/model.safetensors: "),
        (pickle, "broken: no *.safetensors file; pickled weights are not loaded"),
        (take_weights_of_another, "these are weights of another architecture"),
        (widen, "but config.json asks for"),
        (lambda folder: edit_config(folder, model_type="unheard_of"), "broken/config.json: "),
        (take_a_tokenizer_of_another, "this tokenizer belongs to another checkpoint"),
        (lose_the_scores, "the first forward gave a score that is not a number"),
        (point_out, "broken/config.json: tokenizer_name '../elsewhere' leads out"),
        (index_outside, "broken/model.safetensors.index.json: no file ../second/model.safetensors beside it"),
        (announce_more_than_memory, "broken/model.safetensors: "),
    ],
)
def test_a_checkpoint_that_can_not_be_served_changes_nothing(
    served: Any, root: Path, models: Mapping[str, Path], break_it: Callable[[Path], None], reason: str
) -> None:
    before = listed(served)
    shutil.rmtree(root / "broken", ignore_errors=True)
    break_it(Path(shutil.copytree(models["tiny-bert"], root / "broken")))
    answer = put(served, "bert", root / "broken")
    assert (answer.status_code, answer.json()["error_type"]) == (422, "validation"), answer.text
    assert reason in answer.json()["error"]
    assert str(root) not in answer.text
    assert "\n" not in answer.json()["error"]
    assert listed(served) == before
    assert served.predict(TEXT, model="bert").status_code == 200


def test_a_model_that_does_not_fit_into_memory_changes_nothing(served: Any, root: Path, models: Mapping[str, Path]) -> None:
    before = listed(served)
    edit_config(Path(shutil.copytree(models["failing"], root / "huge")), huge=True)
    answer = put(served, "bert", root / "huge")
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"] == "huge: not enough memory to load and run it beside the models that are served"
    assert listed(served) == before


@pytest.fixture
def outside(models: Mapping[str, Path], root: Path) -> Iterator[None]:
    """Links in the model root that lead out of it: one is a folder, one a file in a folder."""
    (root / "link").symlink_to(models["tiny-bert"])
    shutil.copytree(models["tiny-bert"], root / "inner")
    (root / "inner" / "model.safetensors").unlink()
    (root / "inner" / "model.safetensors").symlink_to(models["tiny-bert"] / "model.safetensors")
    yield
    (root / "link").unlink()
    shutil.rmtree(root / "inner")


@pytest.mark.usefixtures("outside")
@pytest.mark.parametrize("path", ["..", "../..", "/etc", "link", "inner", "nowhere", "first/../../x", "a\0b", "a" * 5000, ""])
def test_a_path_that_leads_out_of_the_roots_is_refused(served: Any, path: str) -> None:
    answer = put(served, "escape", path)
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("path: ")
    assert "escape" not in listed(served)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"{}", 422),
        (b'{"name": "a/b", "path": "first"}', 422),
        (b'{"name": "a\\nb", "path": "first"}', 422),
        (b'{"name": "a", "path": 1}', 422),
        (b'{"name": "a", "path": "first", "version": "a b"}', 422),
    ],
)
def test_a_body_that_is_no_order_is_refused(served: Any, body: bytes, status: int) -> None:
    answer = served.client.post("/models", content=body, headers=ADMIN)
    assert (answer.status_code, answer.json()["error_type"]) == (status, "validation")


def test_one_change_is_made_at_a_time(served: Any, root: Path) -> None:
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda number: put(served, f"many-{number}", root / "first"), range(6)))
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses[0] == 201
    assert statuses[-1] == 409
    assert set(statuses) == {201, 409}
    added = {answer.json()["name"] for answer in answers if answer.status_code == 201}
    assert {name for name in listed(served) if name.startswith("many-")} == added
    for name in added:
        assert served.client.delete(f"/models/{name}", headers=ADMIN).status_code == 200


def test_other_verbs_are_405(served: Any) -> None:
    assert served.client.put("/models", json={}).status_code == 405
    assert served.client.get("/models/bert").status_code == 405


def test_replacing_again_and_again_does_not_grow_a_worker(served: Any, root: Path, wait: Callable[..., None]) -> None:
    def workers_mib() -> float:
        workers = served.workers()
        assert len(workers) == 2
        return sum(worker.memory_info().rss for worker in workers) / 2**20

    def drops() -> int:
        return int(served.log.read_text().count("dropped the model of place"))

    wide = root / "wide"
    make_wide(root / "first", wide)
    settled = 0.0
    for number in range(12):
        expected = drops() + (2 if number else 0)
        assert put(served, "wide", wide, version=str(number)).status_code in (200, 201)
        wait(lambda expected=expected: drops() >= expected, timeout_s=SAFETY_S, alive=served)
        if number == 2:
            settled = workers_mib()
    # memory of a dropped model is given back a moment later; nine copies more in each of two workers would be 1,080 MiB
    wait(lambda: workers_mib() - settled < WIDE_MIB, timeout_s=10, alive=served)


WIDE_MIB = 60


def make_wide(source: Path, folder: Path) -> None:
    """Makes a checkpoint with 60 MiB of weights, so that one copy too many shows."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    from models import register_architectures

    register_architectures()
    shutil.copytree(source, folder)
    config = AutoConfig.from_pretrained(folder)
    config.intermediate_size = WIDE_MIB * 2**20 // 4 // (2 * config.hidden_size * config.num_hidden_layers)
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)


def test_a_checkpoint_with_added_tokens_is_served(served: Any, root: Path, models: Mapping[str, Path]) -> None:
    from models.add_tokens import main

    assert main([str(models["tiny-lstm"]), "--tokens", "filmfood", "--to", str(root / "grown")]) == 0
    assert put(served, "grown", root / "grown").status_code == 201
    (tokens,) = served.client.post("/tokenize", json={"inputs": "a filmfood", "model": "grown"}).json()
    assert [token["text"].strip() for token in tokens if not token["special"]] == ["a", "filmfood"]
    assert served.predict("a filmfood", model="grown").status_code == 200


def test_it_stops_cleanly(served: Any) -> None:
    served.process.terminate()
    served.assert_stopped_cleanly()


@pytest.mark.parametrize("flags", [("--admin-key", "adm1n"), ("--model-roots", "/")])
def test_nothing_can_be_changed_without_roots_and_key(start_server: Callable[..., Any], flags: tuple[str, str]) -> None:
    closed = start_server("--http-processes", "1", *flags)
    for answer in (put(closed, "a", "/etc"), closed.client.delete("/models/failing", headers=ADMIN)):
        assert (answer.status_code, answer.json()["error_type"]) == (403, "forbidden")
    closed.close()
