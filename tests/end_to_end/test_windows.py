"""`overflow: "window"` over HTTP, held against windows by transformers' own tokenizer and a plain forward of each."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

ByLabel = Callable[..., dict[str, float]]
# A batch sums float32 numbers in another order than a window alone. The logits are of order 1.
TOLERANCE = 1e-5
SENTENCE = "the film was good and funny and moving a terrible boring camera train leaves at nine on monday wonderful hate"
WORDS = SENTENCE.split()
LENGTHS = (10, 46, 47, 62, 100, 700, 2000, 10_000)
NAMES = ("tiny-bert", "tiny-lstm", "keyword")
SMALL_LIMIT = 64


def text(words: int, *, seed: int = 0) -> str:
    """A text of words in random order, so that its windows differ."""
    return " ".join(WORDS[(place * place + seed + place // 7) % len(WORDS)] for place in range(words))


@pytest.fixture(scope="module")
def roomy(start_server: Callable[..., Any]) -> Any:
    """A server that takes many windows a request."""
    return start_server("--max-client-batch-size", "1024", names=NAMES)


class Reference:
    """Windows are made by transformers' tokenizer and scored alone; their logits are averaged by hand."""

    def __init__(self, folder: Path) -> None:
        self.model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.limit = min(self.model.config.max_position_embeddings, self.tokenizer.model_max_length)

    def windows(self, text: str) -> list[list[int]]:
        room = self.limit - self.tokenizer.num_special_tokens_to_add()
        cut = {"truncation": True, "max_length": self.limit, "stride": room // 4, "return_overflowing_tokens": True}
        return self.tokenizer(text, **cut)["input_ids"]

    @torch.inference_mode()
    def logits(self, text: str) -> dict[str, float]:
        total, weights = torch.zeros(3, dtype=torch.float64), 0
        for ids in self.windows(text):
            row = torch.tensor([ids])
            weight = len(ids) - self.tokenizer.num_special_tokens_to_add()
            total += weight * self.model(input_ids=row, attention_mask=torch.ones_like(row)).logits[0].double()
            weights += weight
        return {self.model.config.id2label[place]: float(value) for place, value in enumerate(total / weights)}


@pytest.fixture(scope="module")
def references(models: Mapping[str, Path]) -> Mapping[str, Reference]:
    return {name: Reference(models[name]) for name in NAMES}


@pytest.mark.parametrize("words", LENGTHS)
@pytest.mark.parametrize("name", NAMES)
def test_scores_are_the_windows_logits_combined_by_hand(
    roomy: Any, references: Mapping[str, Reference], scores_by_label: ByLabel, name: str, words: int
) -> None:
    reference = references[name]
    answer = roomy.predict(text(words), path=f"/models/{name}/predict", overflow="window", raw_scores=True)
    assert answer.status_code == 200
    assert scores_by_label(answer.json()) == pytest.approx(reference.logits(text(words)), abs=TOLERANCE)
    assert int(answer.headers["x-tokens"]) == sum(map(len, reference.windows(text(words))))


def test_windows_sent_as_texts_combine_to_the_same(server: Any, scores_by_label: ByLabel) -> None:
    words = text(100).split()
    parts = [words[start : start + 46] for start in (0, 35, 70)]
    alone = [scores_by_label(server.predict(" ".join(part), raw_scores=True).json()) for part in parts]
    total = sum(map(len, parts))
    by_hand = {label: sum(len(part) * row[label] for part, row in zip(parts, alone, strict=True)) / total for label in alone[0]}
    found = server.predict(" ".join(words), raw_scores=True, overflow="window")
    assert scores_by_label(found.json()) == pytest.approx(by_hand, abs=TOLERANCE)
    assert max(abs(row["positive"] - by_hand["positive"]) for row in alone) > 100 * TOLERANCE


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_of_short_and_long_texts_scores_each_as_alone(server: Any, scores_by_label: ByLabel, name: str) -> None:
    texts = [text(words, seed=words) for words in (3, 300, 10, 46, 150, 1, 61)]
    alone = [scores_by_label(server.predict(one, model=name, overflow="window").json()) for one in texts]
    answer = server.predict(texts, model=name, overflow="window")
    assert len(answer.json()) == len(texts)
    for found, expected in zip(answer.json(), alone, strict=True):
        assert scores_by_label(found) == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize("fields", [{}, {"raw_scores": True}, {"parameters": {"top_k": 1}}], ids=["plain", "raw", "top_k"])
def test_a_text_that_fits_scores_exactly_as_without(server: Any, fields: dict[str, Any]) -> None:
    for one in ("good", text(46), {"text": text(20), "text_pair": text(20)}):
        assert server.predict(one, overflow="window", **fields).json() == server.predict(one, **fields).json()


def test_a_long_text_is_scored_by_more_than_its_beginning(server: Any, scores_by_label: ByLabel) -> None:
    long = text(200)
    windowed, cut = (scores_by_label(server.predict(long, overflow=overflow).json()) for overflow in ("window", "truncate"))
    assert windowed != pytest.approx(cut, abs=1e-3)
    assert sum(windowed.values()) == pytest.approx(1)


def test_parameters_hold_for_windows(server: Any) -> None:
    full = server.predict(text(200), overflow="window").json()
    assert server.predict(text(200), overflow="window", parameters={"top_k": 1}).json() == [full[:1]]
    assert server.predict(text(200), overflow="window", truncate=True).json() == full


@pytest.mark.parametrize(("first", "second"), [(100, 5), (5, 100)])
def test_the_longer_text_of_a_pair_is_windowed(server: Any, scores_by_label: ByLabel, first: int, second: int) -> None:
    pair = [text(first), text(second, seed=3)]
    (found,) = server.predict([pair], overflow="window", raw_scores=True).json()
    longer = pair[0 if first > second else 1].split()
    parts = [longer[start : start + 40] for start in (0, 30, 60)]
    sent = [[" ".join(part), pair[1]] if first > second else [pair[0], " ".join(part)] for part in parts]
    rows = [scores_by_label(row) for row in server.predict(sent, raw_scores=True).json()]
    weights = [len(part) for part in parts]
    by_hand = {
        label: sum(weight * row[label] for weight, row in zip(weights, rows, strict=True)) / sum(weights) for label in rows[0]
    }
    assert scores_by_label(found) == pytest.approx(by_hand, abs=TOLERANCE)


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (text(10_000), "inputs: 286 windows of 48 tokens exceed the limit of 64"),
        ([text(1000)] * 3, "inputs: 87 windows of 48 tokens exceed the limit of 64"),
        (["good"] * 65, "65 texts exceed the limit of 64"),
        (["good", [text(60), text(70)]], "inputs[1]: the shorter text of the pair takes 63 tokens"),
    ],
    ids=["long", "batch", "texts", "pair"],
)
def test_what_would_be_too_many_windows_is_422(server: Any, inputs: Any, said: str) -> None:
    answer = server.predict(inputs, overflow="window")
    assert (answer.status_code, answer.json()["error_type"]) == (422, "validation")
    assert said in answer.json()["error"]


def test_a_window_that_the_model_fails_on_names_its_text(server: Any) -> None:
    inputs = ["good", text(200), text(60) + " poison", "good"]
    answer = server.predict(inputs, model="failing", overflow="window")
    assert answer.status_code == 424
    assert "text 2 of this request" in answer.json()["error"]
