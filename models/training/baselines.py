"""What a model has to beat: a linear classifier over TF-IDF features, and the VADER lexicon."""

from collections.abc import Sequence

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline, make_union
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from models.training.data import LABELS, Example
from models.training.evaluation import Predictor

# The authors' own cut on the compound score, which lies in -1..1.
VADER_COMPOUND = 0.05


def fit_tfidf(examples: Sequence[Example]) -> Predictor:
    """Words, word pairs and 3 to 4 characters within words; logistic regression with balanced classes."""
    pipeline = _tfidf_pipeline()
    pipeline.fit([example.text for example in examples], [example.label for example in examples])

    def predict(texts: Sequence[str]) -> list[int]:
        return [int(label) for label in pipeline.predict(texts)]

    return predict


def vader() -> Predictor:
    """The lexicon and rules of Hutto & Gilbert 2014; nothing is fitted."""
    analyzer = SentimentIntensityAnalyzer()

    def predict(texts: Sequence[str]) -> list[int]:
        return [_label_of_compound(analyzer.polarity_scores(text)["compound"]) for text in texts]

    return predict


def _label_of_compound(compound: float) -> int:
    if compound >= VADER_COMPOUND:
        return LABELS.index("positive")
    return LABELS.index("negative" if compound <= -VADER_COMPOUND else "neutral")


def _tfidf_pipeline() -> Pipeline:
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 4), sublinear_tf=True)
    # newton-cg converges in a minute; lbfgs at the same tolerance takes several
    return make_pipeline(make_union(words, characters), LogisticRegression(class_weight="balanced", solver="newton-cg"))
