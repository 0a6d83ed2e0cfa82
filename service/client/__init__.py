"""The service from Python; `pip install valence[client]`. Nothing here imports torch or another part of the service.

    with Client("http://localhost:8000") as client:
        client.predict("LOVED IT")[0].label         # 'positive'
        client.predict(["fine", "never again"])     # a list of scores for each text of a list
        client.predict(("a text", "its partner"))   # a tuple is a pair

`AsyncClient` has the same methods to await.
"""

from service.client.clients import AsyncClient, Client
from service.client.failures import (
    Conflict,
    Forbidden,
    HeadTooLarge,
    InvalidRequest,
    ModelFailed,
    NotFound,
    Overloaded,
    TimedOut,
    TooSlow,
    Unauthorized,
    Unavailable,
    Unreachable,
    UnsupportedEncoding,
    ValenceError,
)
from service.client.messages import Info, LabelScore, ModelInfo, Scores
from service.client.retries import Retries

__all__ = [
    "AsyncClient",
    "Client",
    "Conflict",
    "Forbidden",
    "HeadTooLarge",
    "Info",
    "InvalidRequest",
    "LabelScore",
    "ModelFailed",
    "ModelInfo",
    "NotFound",
    "Overloaded",
    "Retries",
    "Scores",
    "TimedOut",
    "TooSlow",
    "Unauthorized",
    "Unavailable",
    "Unreachable",
    "UnsupportedEncoding",
    "ValenceError",
]
