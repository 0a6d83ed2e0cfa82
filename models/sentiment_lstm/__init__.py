"""A bidirectional LSTM classifier that reads real tokens only."""

from models.sentiment_lstm.configuration_sentiment_lstm import SentimentLstmConfig
from models.sentiment_lstm.modeling_sentiment_lstm import (
    SentimentLstmForSequenceClassification,
    SentimentLstmModel,
    SentimentLstmPreTrainedModel,
)

__all__ = [
    "SentimentLstmConfig",
    "SentimentLstmForSequenceClassification",
    "SentimentLstmModel",
    "SentimentLstmPreTrainedModel",
]
