from collections.abc import Sequence
from pathlib import Path

import pytest

from models.training.baselines import fit_tfidf, held_out_logits, vader
from models.training.data import Example, key
from models.training.evaluation import PROBES, Predictions, Scores, evaluation_sets, quality_table, score

NEGATIVE, NEUTRAL, POSITIVE = range(3)


def examples(*pairs: tuple[str, int]) -> list[Example]:
    return [Example(text, label, "sample") for text, label in pairs]


def always_negative(texts: Sequence[str]) -> Predictions:
    return Predictions([NEGATIVE] * len(texts))


def always_sure(texts: Sequence[str]) -> Predictions:
    return Predictions([NEGATIVE] * len(texts), [0.9] * len(texts))


def test_score_agrees_with_a_case_worked_by_hand() -> None:
    # Class 0: precision 2/3, recall 1, F1 4/5. Class 1: 1, 1/2, 2/3. Class 2: 1, 1, 1.
    scores = score([0, 0, 1, 1, 2], [0, 0, 0, 1, 2])
    assert scores.accuracy == pytest.approx(4 / 5)
    assert scores.macro_f1 == pytest.approx((4 / 5 + 2 / 3 + 1) / 3)
    assert scores.macro_recall == pytest.approx((1 + 1 / 2 + 1) / 3)


def test_classes_that_no_label_holds_do_not_count_in_the_mean() -> None:
    scores = score([0, 2], [0, 1])
    assert scores == Scores(accuracy=0.5, macro_f1=0.5, macro_recall=0.5)


@pytest.mark.parametrize(("labels", "predictions"), [([], []), ([0, 1], [0])])
def test_score_refuses_what_it_cannot_compare(labels: list[int], predictions: list[int]) -> None:
    with pytest.raises(ValueError, match=f"{len(predictions)} predictions for {len(labels)} labels"):
        score(labels, predictions)


def test_quality_table_has_a_row_for_each_predictor_and_four_figures_for_each_set() -> None:
    sets = {"first": examples(("bad", NEGATIVE), ("good", POSITIVE)), "second": examples(("bad", NEGATIVE))}
    table = quality_table({"pessimist": always_negative, "sure one": always_sure}, sets)
    assert table.splitlines() == [
        "| accuracy / macro-F1 / macro-recall / ECE, % | first (2) | second (1) |",
        "| --- | --- | --- |",
        "| pessimist | 50.0 / 33.3 / 50.0 / – | 100.0 / 100.0 / 100.0 / – |",
        "| sure one | 50.0 / 33.3 / 50.0 / 40.0 | 100.0 / 100.0 / 100.0 / 10.0 |",
    ]


def test_evaluation_sets_are_the_test_split_the_given_files_and_the_probes(tmp_path: Path) -> None:
    path = tmp_path / "mine.tsv"
    path.write_text("neutral\tso it goes\n", encoding="utf-8")
    sets = evaluation_sets(examples(("bad", NEGATIVE)), files=[path])
    assert list(sets) == ["in-domain test", "mine", "probes"]
    assert sets["mine"] == [Example("so it goes", NEUTRAL, "mine")]


@pytest.mark.parametrize(("corpus", "labels", "least"), [("english", range(3), 15), ("chinese", (NEGATIVE, POSITIVE), 20)])
def test_probes_are_distinct_and_cover_every_class(corpus: str, labels: Sequence[int], least: int) -> None:
    probes = evaluation_sets([], corpus=corpus)["probes"]
    texts = [key(probe.text) or probe.text for probe in probes]
    assert len(set(texts)) == len(texts)
    assert {probe.label for probe in probes} == set(labels)
    assert min(sum(probe.label == label for probe in probes) for label in labels) >= least
    assert {probe.source for probe in probes} == {PROBES[corpus].stem}


@pytest.mark.parametrize(("text", "label"), [("I love it!", POSITIVE), ("I hate it.", NEGATIVE), ("It is a table.", NEUTRAL)])
def test_vader_tells_plain_cases(text: str, label: int) -> None:
    assert vader()([text]) == Predictions([label])


def test_tfidf_learns_the_words_of_its_examples() -> None:
    train = examples(*[("great film", POSITIVE), ("awful film", NEGATIVE), ("a film", NEUTRAL)] * 5)
    assert fit_tfidf(train)(["great acting", "awful acting"]).classes == [POSITIVE, NEGATIVE]


def test_chinese_is_told_by_its_characters() -> None:
    words = (("干净", POSITIVE), ("很脏", NEGATIVE))
    train = examples(*[(f"房间{word}第{n}次", label) for word, label in words for n in range(9)])
    assert fit_tfidf(train, corpus="chinese")(["服务干净", "很脏很脏"]).classes == [POSITIVE, NEGATIVE]


def test_held_out_logits_know_nothing_of_a_texts_own_group() -> None:
    train = examples(*[(word, label) for word, label in (("干净", POSITIVE), ("很脏", NEGATIVE)) for _ in range(10)])
    lone = examples(("周到", POSITIVE), ("周到", POSITIVE))
    logits = held_out_logits(train + lone, [*range(20), 20, 20], corpus="chinese")
    assert logits.shape == (22, 2)
    assert (logits[:10, 1] > 0).all()
    assert (logits[10:20, 1] < 0).all()
    assert abs(logits[20, 1]) < min(abs(logits[:20, 1]))
