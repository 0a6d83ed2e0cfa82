"""From a checkpoint to a hub and back: it is published, loaded where this repository is unknown, and served."""

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from huggingface_hub import HfApi, constants

from models.publish import main
from service.served.catalog import CatalogError, load_catalog
from service.served.hub import HubError, fetch
from service.settings import Settings

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
TOKEN = runpy.run_path(str(HERE / "hub_server.py"))["TOKEN"]
TEXTS = ["a wonderful film", "the train leaves at nine", "not good at all, not even funny 😍"]


@pytest.fixture(scope="module", autouse=True)
def hub(tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int], wait: Callable[..., None]) -> Iterator[HfApi]:
    """A hub for this module, and an environment in which huggingface_hub uses it with an empty cache."""
    url = f"http://127.0.0.1:{free_port()}"
    process = subprocess.Popen([sys.executable, HERE / "hub_server.py", url.rpartition(":")[2]], stdout=subprocess.DEVNULL)
    environment = {
        "HF_ENDPOINT": url,
        "HF_TOKEN": TOKEN,
        "HF_HOME": str(tmp_path_factory.mktemp("huggingface")),
        "HF_HUB_DISABLE_XET": "1",  # this hub does not speak that protocol for large files
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        try:
            wait(lambda: is_up(url), timeout_s=30)
            yield HfApi(endpoint=url, token=TOKEN)
        finally:
            process.kill()
            process.wait()


def is_up(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).status_code == 404
    except httpx.TransportError:
        return False


def publish(*arguments: object) -> None:
    command = [sys.executable, "-m", "models.publish", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def published(hub: HfApi, checkpoints: Mapping[str, Path]) -> Mapping[str, str]:
    """The repository of each checkpoint: `tiny-bert` on main, after an older commit; `keyword`, private, on a branch."""
    hub.create_repo("acme/tiny-bert")
    for stale in ("pytorch_model.bin", "modeling_old.py", "notes.txt"):
        hub.upload_file(path_or_fileobj=b"stale", path_in_repo=stale, repo_id="acme/tiny-bert")
    publish(checkpoints["tiny-bert"], "--repo", "acme/tiny-bert")
    module = ("--import-module", "examples.keyword_pooling.architecture")
    publish(checkpoints["keyword"], "--repo", "acme/keyword", "--revision", "v2", "--private", *module)
    return {"tiny-bert": "acme/tiny-bert", "keyword": "acme/keyword@v2"}


def test_a_repository_holds_weights_tokenizer_card_and_code_and_nothing_of_before(
    hub: HfApi, published: Mapping[str, str]
) -> None:
    code = {"configuration_custom_bert.py", "modeling_custom_bert.py"}
    tokenizer = {"tokenizer.json", "tokenizer_config.json"}
    expected = {"config.json", "model.safetensors", "README.md", "notes.txt", *code, *tokenizer}
    assert set(hub.list_repo_files("acme/tiny-bert")) == expected
    assert hub.model_info("acme/keyword").private


FRESH_PROCESS = """
import json, sys
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

texts, found = json.loads(sys.argv[1]), {}
for name in sys.argv[2:]:
    repo, _, revision = name.partition("@")
    options = {"revision": revision or "main", "trust_remote_code": True}
    tokenizer = AutoTokenizer.from_pretrained(repo, **options)
    batch = tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=False)
    for attention in ("sdpa", "eager") if repo == "acme/tiny-bert" else ("eager",):
        model = AutoModelForSequenceClassification.from_pretrained(repo, attn_implementation=attention, **options)
        found[f"{repo} {attention}"] = [type(model).__module__, model.eval()(**batch).logits.tolist()]
base = AutoModel.from_pretrained("acme/tiny-bert", trust_remote_code=True)
own = [module for module in sys.modules if module.split(".")[0] in ("models", "service", "tokenizers_store", "examples")]
print(json.dumps([found, type(base).__name__, own]))
"""


def test_a_process_that_never_saw_this_repository_loads_it(
    published: Mapping[str, str], checkpoints: Mapping[str, Path], tmp_path: Path, logits_of: Callable[..., Any]
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FRESH_PROCESS, json.dumps(TEXTS), *published.values()],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"HF_HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found, base, own = json.loads(done.stdout.splitlines()[-1])
    assert own == []
    assert base == "CustomBertModel"
    assert {name: module.split(".")[0] for name, (module, _) in found.items()} == dict.fromkeys(found, "transformers_modules")
    for name, (_, logits) in found.items():
        expected = logits_of(checkpoints[name.partition(" ")[0].partition("/")[2]], TEXTS)
        assert logits == [pytest.approx(row, abs=1e-5) for row in expected]


@pytest.fixture(scope="module")
def logits_of() -> Callable[[Path, list[str]], list[list[float]]]:
    """Computes the logits of a local checkpoint by the classes of this repository."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    def compute(checkpoint: Path, texts: list[str]) -> list[list[float]]:
        batch = AutoTokenizer.from_pretrained(checkpoint)(texts, padding=True, return_tensors="pt", return_token_type_ids=False)
        model = AutoModelForSequenceClassification.from_pretrained(checkpoint, trust_remote_code=False).eval()
        return model(**batch).logits.tolist()

    return compute


@pytest.mark.parametrize(
    ("token", "endpoint", "flags", "message"),
    [
        ("hf_wrong", None, (), "does not let this token write to acme/tiny-bert (status 401)"),
        (TOKEN, None, ("--private",), "acme/tiny-bert is there already and is public: nothing was pushed"),
        (TOKEN, "http://127.0.0.1:9", (), "http://127.0.0.1:9 can't be reached"),
    ],
    ids=["token", "public", "endpoint"],
)
def test_what_a_hub_refuses_is_one_sentence(
    token: str,
    endpoint: str | None,
    flags: tuple[str, ...],
    message: str,
    hub: HfApi,
    published: Mapping[str, str],
    checkpoints: Mapping[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = hub.model_info("acme/tiny-bert").sha
    monkeypatch.setattr(constants, "ENDPOINT", endpoint or hub.endpoint)  # huggingface_hub read the environment at its import
    monkeypatch.setenv("HF_TOKEN", token)
    assert main([str(checkpoints["tiny-bert"]), "--repo", "acme/tiny-bert", *flags]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1
    assert hub.model_info("acme/tiny-bert").sha == before


@pytest.fixture(scope="module")
def stranger(hub: HfApi, published: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """A repository of an architecture that is unknown here, with pickled weights beside safetensors."""
    folder = tmp_path_factory.mktemp("stranger")
    hub.snapshot_download("acme/keyword", revision="v2", local_dir=folder)
    for name in ("config.json", "architecture.py"):
        path = folder / name
        path.write_text(path.read_text().replace("keyword_pooling", "stranger").replace("KeywordPooling", "Stranger"))
    (folder / "pytorch_model.bin").write_bytes(b"pickled")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "config.json").write_text("{}")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").unlink()
    hub.create_repo("acme/stranger")
    hub.upload_folder(repo_id="acme/stranger", folder_path=folder)
    upload_weights(hub, "acme/stranger", weights)
    return "acme/stranger"


def upload_weights(hub: HfApi, repo: str, weights: bytes) -> None:
    """Uploads weights by Git LFS, which the huggingface_hub of this process would replace by another protocol."""
    script = f"import sys; from huggingface_hub import HfApi; HfApi().upload_file(path_or_fileobj=sys.stdin.buffer.read(), \
path_in_repo='model.safetensors', repo_id={repo!r})"
    subprocess.run([sys.executable, "-c", script], input=weights, check=True, capture_output=True)


@pytest.fixture(scope="module")
def served(server_of: Callable[..., Any], published: Mapping[str, str], stranger: str, checkpoints: Mapping[str, Path]) -> Any:
    """A server of the repositories, and of a local checkpoint that one of them was made from."""
    models = {"local": checkpoints["tiny-bert"], "hub": published["tiny-bert"], "stranger": stranger}
    return server_of(models, "--trust-remote-code", "true")


@pytest.mark.parametrize("text", TEXTS)
def test_a_repository_is_served_as_its_checkpoint(served: Any, text: str, scores_by_label: Callable[..., Any]) -> None:
    local, hub = (scores_by_label(served.predict(text, model=name).json()) for name in ("local", "hub"))
    assert hub == pytest.approx(local, abs=1e-6)


def test_code_of_a_repository_runs_where_it_is_trusted(served: Any) -> None:
    assert served.predict(TEXTS[0], model="stranger").json()[0]["label"] == "positive"


def test_info_and_log_name_the_commit(served: Any, hub: HfApi) -> None:
    commit = hub.model_info("acme/tiny-bert").sha
    sources = {model["name"]: model["source"] for model in served.client.get("/info").json()["models"]}
    assert sources["hub"] == f"acme/tiny-bert@{commit}"
    assert sources["local"] is None
    assert f"acme/tiny-bert: revision main is commit {commit}" in served.log.read_text()


def test_code_that_is_not_trusted_is_refused_by_the_setting_that_allows_it(stranger: str) -> None:
    with pytest.raises(CatalogError, match="then give --trust-remote-code, or register the architecture by --import-modules"):
        load_catalog(Settings(models=(f"stranger={stranger}",)))


@pytest.mark.parametrize("with_code", [False, True], ids=["without code", "with code"])
def test_only_what_is_served_is_fetched(with_code: bool, stranger: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    snapshot = fetch(stranger, with_code=with_code)
    expected = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert {str(path.relative_to(snapshot.path)) for path in snapshot.path.rglob("*") if path.is_file()} == expected | (
        {"architecture.py"} if with_code else set()
    )


def test_a_commit_is_served_from_the_cache_without_a_hub(
    published: Mapping[str, str], hub: HfApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fetch(published["tiny-bert"], with_code=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch(published["tiny-bert"], with_code=False) == first
    assert fetch(f"acme/tiny-bert@{first.commit}", with_code=False).path == first.path


@pytest.mark.parametrize(
    ("value", "environment", "message"),
    [
        ("acme/none", {}, r"acme/none: no such folder, and http://\S+ has no such repository that HF_TOKEN opens"),
        ("acme/keyword@v2", {"HF_TOKEN": "hf_wrong"}, r"acme/keyword: no such folder, and http://\S+ has no such repository"),
        ("acme/tiny-bert@v9", {}, r"acme/tiny-bert: http://\S+ has no revision 'v9' of it"),
        ("acme/other", {"HF_HUB_OFFLINE": "1"}, "acme/other: no such folder, HF_HUB_OFFLINE is set, and the cache"),
        ("acme/other", {"HF_ENDPOINT": "http://127.0.0.1:9"}, "acme/other: no such folder, http://127.0.0.1:9 can't be reached"),
    ],
    ids=["repository", "private", "revision", "offline", "unreachable"],
)
def test_what_can_not_be_fetched_is_one_sentence(
    value: str,
    environment: dict[str, str],
    message: str,
    published: Mapping[str, str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    for name, setting in environment.items():
        monkeypatch.setenv(name, setting)
    with pytest.raises(HubError, match=message) as caught:
        fetch(value, with_code=False)
    assert "\n" not in str(caught.value)


def test_a_missing_revision_ends_the_service_with_one_sentence(
    launch: Callable[..., tuple[int, str]], published: Mapping[str, str]
) -> None:
    code, log = launch({"hub": "acme/tiny-bert@v9"})
    assert code == 2
    assert "has no revision 'v9' of it" in log.splitlines()[-1]
    assert "Traceback" not in log
