from tokenizers.pre_tokenizers import BertPreTokenizer

from load_tests.texts import MAX_WORDS, long_text, user_texts


def test_a_seed_determines_the_texts() -> None:
    assert user_texts(50, seed=3) == user_texts(50, seed=3)
    assert user_texts(50, seed=3) != user_texts(50, seed=4)


def test_a_longer_list_begins_with_the_shorter_one() -> None:
    assert user_texts(80, seed=1)[:20] == user_texts(20, seed=1)


def test_lengths_are_those_of_reviews_and_posts() -> None:
    lengths = sorted(len(text.split()) for text in user_texts(2000))
    assert 2 <= lengths[0] <= 4
    assert 35 <= lengths[-1] <= MAX_WORDS
    assert lengths[200] < 8 < lengths[1000] < 20 < lengths[1900]


def test_texts_hold_about_twenty_words_and_marks() -> None:
    """A WordPiece tokenizer makes at least one token of each, and adds two."""
    split = BertPreTokenizer().pre_tokenize_str
    counts = [len(split(text)) for text in user_texts(2000)]
    assert 17 <= sum(counts) / len(counts) <= 21
    assert max(counts) <= 60


def test_few_texts_repeat() -> None:
    texts = user_texts(2000)
    assert len(set(texts)) > 0.8 * len(texts)


def test_no_text_breaks_the_line() -> None:
    assert all(text.strip() and len(text.splitlines()) == 1 for text in user_texts(2000))


def test_a_long_text_has_the_words_asked_for() -> None:
    assert len(long_text(700).split()) == 700
    assert long_text(300, seed=5) == long_text(300, seed=5)
