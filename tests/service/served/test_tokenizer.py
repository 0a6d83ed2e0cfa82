"""Which tokenizers are served: what AutoTokenizer loads, and what it would make of nothing is refused."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer
from transformers.utils import sentencepiece_model_pb2_new as protocol

from service.served.catalog import CatalogError, ServedModel, load_catalog, load_tokenizer
from service.settings import Settings

Make = Callable[..., Path]
TEXTS = ["a wonderful film", "a terrible film word", ""]


def served(folder: Path) -> ServedModel:
    return load_catalog(Settings(models=(f"m={folder}",)))[0]


def refusal(folder: Path) -> str:
    with pytest.raises(CatalogError) as caught:
        served(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def name_tokenizer(folder: Path, kind: str, **fields: object) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind, **fields}))


def add_pairs(folder: Path) -> None:
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "a", "Ġ", "f", "i", "l", "m", "Ġf", "<mask>"]
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\nĠ f\n", encoding="utf-8")


def test_a_vocabulary_alone_is_converted_and_said_once(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "valence")
    folder = make("bert")
    model = served(folder)
    assert model.tokenizer_path == folder
    assert [line.getMessage() for line in caplog.records] == [f"no tokenizer.json in {folder}; AutoTokenizer converted vocab.txt"]
    expected = AutoTokenizer.from_pretrained(folder)(TEXTS)["input_ids"]
    assert load_tokenizer(model.tokenizer_path)(TEXTS)["input_ids"] == expected == [[2, 5, 6, 8, 3], [2, 5, 7, 8, 9, 3], [2, 3]]


def test_a_tokenizer_json_is_not_talked_about(
    make: Make, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make("bert")
    load_tokenizer(folder).save_pretrained(folder)
    caplog.set_level(logging.INFO, "valence")
    served(folder)
    assert caplog.records == []


def test_pairs_and_their_vocabulary_are_converted(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "valence")
    folder = make("roberta", words=(), vocab_size=12)
    add_pairs(folder)
    assert load_tokenizer(served(folder).tokenizer_path)("a film")["input_ids"] == [0, 4, 10, 7, 8, 9, 2]
    assert "AutoTokenizer converted merges.txt and vocab.json" in caplog.text


def test_a_vocabulary_without_its_pairs_is_refused(make: Make) -> None:
    folder = make("roberta", words=(), vocab_size=12)
    add_pairs(folder)
    (folder / "merges.txt").unlink()
    assert "no tokenizer.json" in refusal(folder)


def write_pieces(file: Path) -> None:
    model = protocol.ModelProto()
    for piece, score, kind in (("<unk>", 0, 2), ("<s>", 0, 3), ("</s>", 0, 3), ("▁a", -1, 1), ("▁film", -2, 1), ("▁", -3, 1)):
        model.pieces.add(piece=piece, score=score, type=kind)
    file.write_bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("kind", "name", "content", "package"),
    [("xlnet", "spiece.model", None, "sentencepiece"), ("bert", "tokenizer.model", b"IQ== 0\n", "tiktoken")],
)
def test_a_package_that_reading_needs_is_named(
    make: Make, kind: str, name: str, content: bytes | None, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make(kind, words=())
    if content is None:
        write_pieces(folder / name)
    else:
        (folder / name).write_bytes(content)
    monkeypatch.setattr("service.served.tokenizer.find_spec", {}.get)
    message = refusal(folder)
    assert message.startswith(f"{folder / name}: no tokenizer.json beside it")
    assert f"pip install {package}, or save the tokenizer with a tokenizer.json" in message


@pytest.mark.parametrize("kind", [None, "BertTokenizer", "TokenizersBackend", "NoSuchTokenizer"])
def test_nothing_is_made_of_nothing(make: Make, kind: str | None) -> None:
    """AutoTokenizer makes a BERT tokenizer that knows no word."""
    folder = make("bert", words=())
    if kind is not None:
        name_tokenizer(folder, kind)
    assert refusal(folder).startswith(f"{folder}: no tokenizer.json, and config.json names no tokenizer_name of ")


def test_a_vocabulary_of_no_known_class_is_refused_with_the_field_that_names_one(make: Make) -> None:
    folder = make("gpt2", hidden_size=16, n_head=2, n_layer=1, n_embd=16)
    name_tokenizer(folder, "NoSuchTokenizer")
    assert "name its class in tokenizer_config.json (tokenizer_class), or save a tokenizer.json" in refusal(folder)


def test_a_tokenizer_in_python_is_let_through(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """CANINE's, which has no vocabulary; and its configuration has no vocab_size."""
    caplog.set_level(logging.INFO, "valence")
    folder = make("canine", words=(), num_hash_buckets=64)
    model = served(folder)
    tokenizer = load_tokenizer(model.tokenizer_path)
    assert not tokenizer.is_fast
    assert tokenizer("ab")["input_ids"] == [57344, 97, 98, 57345]
    assert model.max_length == 2048
    assert f"no tokenizer.json in {folder}; CanineTokenizer needs no vocabulary" in caplog.text


def test_a_package_of_a_tokenizer_in_python_is_named(make: Make) -> None:
    folder = make("bert")
    name_tokenizer(folder, "BertJapaneseTokenizer", word_tokenizer_type="mecab")
    assert refusal(folder).startswith(f"{folder}: its tokenizer needs a package that is missing: You need to install fugashi")


def test_a_tokenizer_of_tables_is_refused(make: Make) -> None:
    folder = make("tapas", vocab_size=20)
    name_tokenizer(folder, "TapasTokenizer")
    assert refusal(folder).startswith(f"{folder}: TapasTokenizer makes token_type_ids of more than text")


def test_a_tokenizer_that_makes_more_than_tokens_is_refused(make: Make) -> None:
    folder = make("roc_bert", vocab_size=20)
    name_tokenizer(folder, "RoCBertTokenizer")
    for name in ("word_shape.json", "word_pronunciation.json"):
        (folder / name).write_text(json.dumps({"[UNK]": 1}))
    message = refusal(folder)
    assert message.startswith(f"{folder}: RoCBertTokenizer makes input_pronunciation_ids, input_shape_ids of more than text")


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", ["[]", "{", "\0", '{"model": 3}'])
def test_any_error_of_a_file_is_one_sentence(make: Make, name: str, content: str) -> None:
    folder = make("bert")
    (folder / name).write_text(content)
    if content != '{"model": 3}' or name == "tokenizer.json":
        assert refusal(folder).startswith(str(folder))
