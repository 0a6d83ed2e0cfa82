"""Every route of the service. Dispatch, allowed verbs, admin keys and the OpenAPI document all follow this table."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from service.edge.routes import classify, docs, explain, infer, models, monitor, openapi, predict, tokenize
from service.edge.routes.route import Route

ROUTES = (
    *predict.ROUTES,
    *classify.ROUTES,
    *tokenize.ROUTES,
    *explain.ROUTES,
    *monitor.ROUTES,
    *models.ROUTES,
    *infer.ROUTES,
    *docs.ROUTES,
)
ByMethod = Mapping[str, Route]


class Table:
    """Finds the routes of a path, also of one that a proxy passes on with its prefix."""

    def __init__(self, routes: Sequence[Route] = ROUTES, *, prefix: str = "") -> None:
        self.prefix = prefix
        by_path: dict[str, dict[str, Route]] = {}
        for route in routes:
            by_path.setdefault(route.path, {})[route.method] = route
        self.fixed: dict[str, ByMethod] = {path: found for path, found in by_path.items() if "{" not in path}
        self.fixed |= {prefix + path: found for path, found in self.fixed.items()}
        self._patterns = [(pattern_of(path), found) for path, found in by_path.items() if "{" in path]

    def find(self, path: str) -> tuple[ByMethod, Mapping[str, str]]:
        """For a path with parameters: its routes by method, and the parameters. Both are empty if there is no such path."""
        for pattern, found in self._patterns:
            match = pattern.fullmatch(self.bare(path))
            if match is not None:
                return found, match.groupdict()
        return {}, {}

    def bare(self, path: str) -> str:
        """A path without the prefix.

        >>> Table(prefix="/nlp").bare("/nlp/predict"), Table(prefix="/nlp").bare("/predict")
        ('/predict', '/predict')
        """
        return path.removeprefix(self.prefix) if path.startswith(f"{self.prefix}/") else path


def document() -> dict[str, Any]:
    """The OpenAPI document of all routes that are shown."""
    return openapi.document([(route.method, route.path, route.operation) for route in ROUTES if route.operation is not None])


def pattern_of(path: str) -> re.Pattern[str]:
    """A path's regular expression, in which each `{name}` stands for one segment.

    >>> pattern_of("/models/{name}/predict").fullmatch("/models/mine/predict")["name"]
    'mine'
    """
    return re.compile(re.sub(r"{(\w+)}", r"(?P<\1>[^/]*)", path))
