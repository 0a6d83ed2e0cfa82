"""An architecture that the image does not know is served from a mounted folder, and from an image of its own."""

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

SAFETY_S = 60
EXAMPLE = Path(__file__).parents[2] / "examples" / "keyword_pooling"
DOCKERFILE = (EXAMPLE / "Dockerfile").read_text()
TEXT = "I love this wonderful phone, but the service was bad"


def mounted(checkpoint: Path, folder: Path) -> dict[str, str]:
    """Compose's variables for a mounted checkpoint. Unless they name a folder of modules, Compose mounts the examples'."""
    shutil.copytree(checkpoint, folder / "mine")
    return {
        "VALENCE_CHECKPOINTS": str(folder),
        "VALENCE_MODELS": "mine=/checkpoints/mine",
        "VALENCE_IMPORT_MODULES": "keyword_pooling.architecture",
    }


def baked(checkpoint: Path, folder: Path) -> dict[str, str]:
    """What the example's Dockerfile copies and sets, as variables of Compose: both copies are folders to mount."""
    for source, target in re.findall(r"^COPY --chmod=755 (\S+) (\S+)$", DOCKERFILE, re.MULTILINE):
        copy = folder / target.lstrip("/")
        copy.parent.mkdir(parents=True)
        if source == "checkpoint":  # the checkpoint that the example's command copies
            shutil.copytree(checkpoint, copy)
        else:
            shutil.copy(EXAMPLE / source, copy)
    (environment,) = re.findall(r"^ENV (.*)$", DOCKERFILE, re.MULTILINE)
    return {
        "VALENCE_CHECKPOINTS": str(folder / "checkpoints"),
        "VALENCE_MODULES": str(folder / "modules"),
        **dict(re.findall(r"(VALENCE_\w+)=(\S+)", environment)),
    }


@pytest.fixture(scope="module", params=[mounted, baked], ids=["mounted", "baked"])
def container(
    request: pytest.FixtureRequest,
    start_container: Callable[..., Any],
    checkpoints: Mapping[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Any:
    started = start_container(**request.param(checkpoints["keyword"], tmp_path_factory.mktemp("own")))
    started.wait_until(started.is_ready)
    return started


@pytest.fixture(scope="module")
def refused(start_container: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A container that ended on a module that raises. Modules beside it are named as the service's packages, and raise too."""
    modules = tmp_path_factory.mktemp("modules")
    (modules / "mine.py").write_text("import torch\n\nwidth = hiden\n")
    for name in ("service", "models", "tokenizers_store"):
        (modules / f"{name}.py").write_text("raise SystemExit(f'{__name__} of the mounted folder')\n")
    started = start_container(VALENCE_MODULES=str(modules), VALENCE_IMPORT_MODULES="mine")
    started.engine.wait(SAFETY_S)
    return started


def test_it_answers_as_transformers_does(container: Any, checkpoints: Mapping[str, Path]) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(checkpoints["keyword"]).eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoints["keyword"])
    with torch.inference_mode():
        scores = model(**tokenizer(TEXT, return_tensors="pt")).logits.softmax(-1)[0].tolist()
    answer = container.predict(TEXT)
    assert (answer.status_code, answer.headers["x-model"]) == (200, "mine")
    expected = {model.config.id2label[label]: score for label, score in enumerate(scores)}
    assert {item["label"]: item["score"] for item in answer.json()} == pytest.approx(expected, abs=1e-6)


def test_the_folder_of_modules_can_not_be_written(container: Any) -> None:
    with pytest.raises(OSError, match="Read-only file system"):
        (container.path("/modules") / "new").touch()


def test_it_runs_as_the_user_of_the_image(container: Any) -> None:
    assert Path(f"/proc/{container.pid}/uid_map").read_text().split()[0] == "10001"


def test_the_image_of_its_own_keeps_the_user_and_the_entry_point() -> None:
    instructions = re.findall(r"^([A-Z]+) ", DOCKERFILE, re.MULTILINE)
    assert instructions == ["FROM", "COPY", "COPY", "ENV"]


def test_a_module_that_raises_is_one_sentence_and_status_2(refused: Any) -> None:
    assert refused.engine.returncode == 2
    (line,) = refused.log.read_text().splitlines()
    assert json.loads(line)["message"] == "--import-modules mine: NameError: name 'hiden' is not defined (mine.py, line 3)"


def test_the_mounted_folder_hides_no_package_of_the_service(refused: Any) -> None:
    assert "of the mounted folder" not in refused.log.read_text()
