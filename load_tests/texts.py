"""English user texts for load tests: reviews and short posts, composed of the parts below by a seeded generator.

    >>> user_texts(2, seed=7) == user_texts(2, seed=7)
    True

`python -m load_tests.texts --count 4096` prints them, one a line.
"""

import argparse
import random

# Each topic: what people write about, and what they say of it. A text keeps to one topic.
TOPICS = (
    (
        ("this pair of headphones", "this jacket", "my new phone", "the battery", "the coffee maker", "this keyboard",
         "the camera", "the zipper on the left pocket", "the app", "the backpack", "the charger that came with it"),
        ("stopped working after a week", "is exactly what I needed", "feels cheap", "is worth every cent", "keeps crashing on me",
         "looks nothing like the picture", "still works fine", "has a blue cover", "comes in three sizes",
         "gets hot after an hour", "was a pleasant surprise", "could be better", "is overpriced", "does the job"),
    ),
    (
        ("the hotel room", "this little cafe", "the waiter", "the train ride", "our guide", "the check-in desk", "the breakfast",
         "the soup", "their support team", "the seat next to the window", "the driver"),
        ("was lovely from start to finish", "let us down", "took far too long", "was cold and slow", "is near the station",
         "deserves more attention", "made us feel at home", "was okay, nothing special", "was a pleasant surprise",
         "could not have been worse", "is on the first floor", "was loud until midnight"),
    ),
    (
        ("the ending", "the second half", "the whole cast", "the soundtrack", "the last episode", "the director's cut",
         "the story", "this documentary", "the lead actress", "the dialogue"),
        ("made us laugh out loud", "makes no sense at all", "gets better every time", "is worth the ticket", "let me down",
         "runs for about two hours", "was shot in Norway", "put me to sleep", "was moving without being sweet", "drags a little",
         "deserves more attention", "is nothing I haven't seen before"),
    ),
)  # fmt: skip
REASONS = (
    "and I would not go back", "although the price went up again", "even though I had read the warnings", "and my kids love it",
    "but nobody answered my emails", "and it was my mother's idea", "so I told everyone at work on Monday", "and I mean it",
    "which I did not expect at this price", "but only if you are patient", "as far as I can tell", "and that is all I can say",
    "while everyone around us was complaining", "and I will leave it at that", "if you ask me", "at least the first time",
)  # fmt: skip
OPENERS = (
    "Honestly,", "So,", "Update:", "Not gonna lie,", "Look,", "To be fair,", "Okay,", "After a month of daily use,",
    "First of all,", "I wanted to like it, but", "Just to let you know,", "As a long-time customer I have to say", "Wow,", "Hmm,",
)  # fmt: skip
CLOSERS = (
    "Would buy again.", "Never again.", "Highly recommended!", "Two stars from me.", "Thanks for nothing.", "10/10", "Meh.",
    "Can't wait for the next one!", "Save your money.", "See you next summer.", "Anyone else?", "You get what you pay for.",
    "#disappointed", "#happy", "lol", "🙂", "😡", "👍👍",
)  # fmt: skip
SHORT = (
    "Love it, thanks!", "Worst purchase of the year.", "It's fine, I guess.", "Not bad at all.", "What a waste of an evening.",
    "Arrived on Tuesday, as promised.", "Best soup in town!!", "i want my money back", "Simply wonderful.",
    "Does anyone know the opening hours?",
)  # fmt: skip

# Weights of one to five clauses: with the short texts, 20 to 23 WordPiece tokens on average, and a long right tail.
CLAUSES = (1, 2, 3, 4, 5)
CLAUSE_WEIGHTS = (48, 33, 13, 5, 1)
SHORT_SHARE = 0.12
# A longer text is drawn again, which is seldom needed.
MAX_WORDS = 45


def user_texts(count: int, *, seed: int = 0) -> list[str]:
    """`count` texts of 2 to `MAX_WORDS` words; with the same seed a longer list begins with the shorter one's texts."""
    rng = random.Random(seed)
    return [_user_text(rng) for _ in range(count)]


def long_text(words: int, *, seed: int = 0) -> str:
    """A text of exactly `words` words: sentences of a long review."""
    rng = random.Random(seed)
    found: list[str] = []
    while len(found) < words:
        found += _sentence(rng, *rng.choice(TOPICS)).split()
    return " ".join(found[:words])


def _user_text(rng: random.Random) -> str:
    if rng.random() < SHORT_SHARE:
        return rng.choice(SHORT)
    while True:
        text = _review(rng)
        if len(text.split()) <= MAX_WORDS:
            return text


def _review(rng: random.Random) -> str:
    topic = rng.choice(TOPICS)
    sentences = [_sentence(rng, *topic) for _ in range(rng.choices(CLAUSES, CLAUSE_WEIGHTS)[0])]
    if rng.random() < 0.4:
        sentences.append(rng.choice(CLOSERS))
    text = " ".join(sentences)
    return text.lower() if rng.random() < 0.15 else text


def _sentence(rng: random.Random, subjects: tuple[str, ...], verdicts: tuple[str, ...]) -> str:
    words = f"{rng.choice(subjects)} {rng.choice(verdicts)}"
    if rng.random() < 0.5:
        words += f" {rng.choice(REASONS)}"
    if rng.random() < 0.25:
        return f"{rng.choice(OPENERS)} {words}{_stop(rng)}"
    return words[0].upper() + words[1:] + _stop(rng)


def _stop(rng: random.Random) -> str:
    return rng.choices((".", "!", "...", "!!"), (80, 12, 5, 3))[0]


def main() -> None:
    """Prints texts, one a line."""
    parser = argparse.ArgumentParser(prog="python -m load_tests.texts")
    parser.add_argument("--count", type=int, default=4096)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--words", type=int, help="long texts of this many words instead")
    options = parser.parse_args()
    if options.words:
        texts = [long_text(options.words, seed=options.seed + place) for place in range(options.count)]
    else:
        texts = user_texts(options.count, seed=options.seed)
    print("\n".join(texts))


if __name__ == "__main__":
    main()
