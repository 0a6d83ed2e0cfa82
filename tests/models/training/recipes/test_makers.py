"""A recipe carried out on made-up texts."""

from dataclasses import replace
from pathlib import Path

from models.training.data import Example, Splits
from models.training.recipes.makers import make_chinese
from models.training.recipes.table import LSTM_ZH
from models.training.trainer import Runtime, Schedule


def test_the_chinese_recipe_trains_a_model_of_two_classes(tmp_path: Path) -> None:
    texts = [(f"房间{first}，服务{second}", 2) for first in ("很好", "干净") for second in ("周到", "热情")]
    texts += [(f"房间{first}，服务{second}", 0) for first in ("很脏", "太吵") for second in ("恶劣", "太慢")]
    examples = [Example(f"{text}{number}", label, "a") for text, label in texts for number in range(8)]
    schedule = Schedule(epochs=1, learning_rate=1e-3, batch_size=32, evaluations_per_epoch=1, teacher_weight=0.5)
    recipe = replace(
        LSTM_ZH, vocab_size=500, schedule=schedule, fields={"embedding_size": 8, "hidden_size": 8, "num_hidden_layers": 1}
    )
    model, tokenizer = make_chinese(recipe, Splits(examples, examples[::5], []), runtime=Runtime(tmp_path, cpu=True))
    assert (model.num_labels, model.config.vocab_size) == (2, len(tokenizer))
    assert tokenizer.unk_token_id not in tokenizer("房间很好😍")["input_ids"]
