"""The texts of the last, short stage of training: classes in equal number within each source, and emoji of undisputed tone.

Sources differ in their shares of the classes: of the tweets one in seven is negative, of the film reviews half. A classifier that
learns those shares along with the texts does worse where they differ. And the corpora hold hardly an emoji: without this stage
"😍😍" is neutral.
"""

import random
from collections import defaultdict
from collections.abc import Sequence

from models.training.data import LABELS, Example

EMOJI = {
    "negative": "😡😠🤬😢😞😔😟☹🙁😣😖😫😩🤮🤢👎💔😤😒🙄😰😨😿😾💩😥😓",
    "positive": "😀😃😄😁😊🙂😍🥰😘😻❤💕💖💗💙💚💛💜🎉🎊👍👏🙌🤩🥳💯✨😋🤗🏆😇☺♥💪",
}
SOURCE = "emoji"
# At most so many texts of each class from a source. GoEmotions has fewest: its classes are made of 28 emotions and least sharp.
MOST, MOST_BY_SOURCE = 5_000, {"goemotions3_train": 1_500}


def finishing_examples(train: Sequence[Example], *, emoji: int = 700, seed: int = 0) -> list[Example]:
    """From each source as many texts of each class as its rarest class has; `emoji` rows of emoji alone; and as many neutral
    texts with emoji behind them. Equal seeds give equal lists."""
    chance = random.Random(seed)
    groups: dict[tuple[str, int], list[Example]] = defaultdict(list)
    for example in train:
        groups[example.source, example.label].append(example)
    balanced = []
    for source in sorted({example.source for example in train}):
        of_source = [groups[source, label] for label in range(len(LABELS))]
        count = min(MOST_BY_SOURCE.get(source, MOST), *map(len, of_source))
        balanced += [example for group in of_source for example in chance.sample(group, count)]
    neutral = [example for example in train if example.label == LABELS.index("neutral")]
    alone = [emoji_example("", chance) for _ in range(emoji)]
    ending = [emoji_example(chance.choice(neutral).text, chance) for _ in range(emoji)]
    return balanced + alone + ending


def emoji_examples(labels: Sequence[str], *, count: int, seed: int = 0) -> list[Example]:
    """Rows of emoji alone, of the tones that `labels` names. Equal seeds give equal lists."""
    chance = random.Random(seed)
    return [emoji_example("", chance, tones=[tone for tone in sorted(EMOJI) if tone in labels]) for _ in range(count)]


def emoji_example(text: str, chance: random.Random, *, tones: Sequence[str] = tuple(sorted(EMOJI))) -> Example:
    """`text` with one to four emoji of one tone behind it, often the same one again."""
    tone = chance.choice(tones)
    count = chance.randint(1, 4)
    choices = chance.choices(EMOJI[tone], k=1 if chance.random() < 0.6 else count)
    row = "".join(choices[index % len(choices)] for index in range(count))
    return Example(f"{text} {row}".strip(), LABELS.index(tone), SOURCE)
