"""What the last stage learns from: equal classes within each source, and emoji."""

from collections import Counter

from models.training.data import LABELS, Example
from models.training.recipes.finishing import EMOJI, MOST_BY_SOURCE, SOURCE, emoji_examples, finishing_examples

COUNTS = {"tweets": (3, 40, 20), "films": (30, 9, 12), "goemotions3_train": (2000, 1900, 1800), "one_sided": (5, 0, 5)}
TRAIN = [
    Example(f"{source} {LABELS[label]} {index}", label, source)
    for source, counts in COUNTS.items()
    for label, count in enumerate(counts)
    for index in range(count)
]


def test_classes_are_equal_within_each_source() -> None:
    found = Counter((example.source, example.label) for example in finishing_examples(TRAIN, emoji=0))
    per_class = {"tweets": 3, "films": 9, "goemotions3_train": MOST_BY_SOURCE["goemotions3_train"]}
    assert found == {(source, label): count for source, count in per_class.items() for label in range(3)}


def test_emoji_stand_alone_and_end_neutral_texts() -> None:
    rows = [example for example in finishing_examples(TRAIN, emoji=50) if example.source == SOURCE]
    alone, ending = rows[:50], rows[50:]
    assert len(ending) == 50
    assert all(set(row.text) <= set(EMOJI[LABELS[row.label]]) for row in alone)
    assert all("neutral" in row.text and row.text[-1] in EMOJI[LABELS[row.label]] for row in ending)


def test_equal_seeds_give_equal_lists() -> None:
    assert finishing_examples(TRAIN, seed=3) == finishing_examples(TRAIN, seed=3)
    assert finishing_examples(TRAIN, seed=3) != finishing_examples(TRAIN, seed=4)


def test_emoji_rows_have_only_the_tones_asked_for() -> None:
    rows = emoji_examples(("negative", "positive"), count=40)
    assert {row.label for row in rows} == {0, 2}
    assert emoji_examples(("positive",), count=3) != emoji_examples(("positive",), count=3, seed=1)
    assert all(row.text[0] in EMOJI[LABELS[row.label]] for row in rows)
