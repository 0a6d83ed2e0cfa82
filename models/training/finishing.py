"""The texts of the last, short stage of training: classes in equal number, and emoji whose tone nobody disputes.

The corpora hold few negative tweets and hardly an emoji. Without this stage a classifier calls "😍😍" neutral.
"""

import random
from collections.abc import Sequence

from models.training.data import LABELS, Example

EMOJI = {
    "negative": "😡😠🤬😢😞😔😟☹🙁😣😖😫😩🤮🤢👎💔😤😒🙄😰😨😿😾💩😥😓",
    "positive": "😀😃😄😁😊🙂😍🥰😘😻❤💕💖💗💙💚💛💜🎉🎊👍👏🙌🤩🥳💯✨😋🤗🏆😇☺♥💪",
}
SOURCE = "emoji"


def finishing_examples(train: Sequence[Example], *, per_class: int = 9_000, emoji: int = 1_500, seed: int = 0) -> list[Example]:
    """`per_class` texts of each class (all, where there are fewer), `emoji` rows of emoji alone, and as many of a neutral text
    that emoji end. Equal seeds give equal lists."""
    chance = random.Random(seed)
    by_class = [[example for example in train if example.label == label] for label in range(len(LABELS))]
    balanced = [example for group in by_class for example in chance.sample(group, min(per_class, len(group)))]
    alone = [emoji_example("", chance) for _ in range(emoji)]
    ending = [emoji_example(chance.choice(by_class[LABELS.index("neutral")]).text, chance) for _ in range(emoji)]
    return balanced + alone + ending


def emoji_example(text: str, chance: random.Random) -> Example:
    """`text` with one to four emoji of one tone behind it, often the same one again."""
    tone = chance.choice(sorted(EMOJI))
    count = chance.randint(1, 4)
    choices = chance.choices(EMOJI[tone], k=1 if chance.random() < 0.6 else count)
    row = "".join(choices[index % len(choices)] for index in range(count))
    return Example(f"{text} {row}".strip(), LABELS.index(tone), SOURCE)
