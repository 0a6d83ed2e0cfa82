"""`GET /docs` and `/openapi.json`: the document, and Swagger UI to read it, from a package and not from the network."""

from importlib.resources import files

import orjson

from service.edge.call import JSON, Answer, Call, Handler
from service.edge.routes.openapi import document

ASSETS = {"/docs/swagger-ui-bundle.js": b"text/javascript; charset=utf-8", "/docs/swagger-ui.css": b"text/css; charset=utf-8"}
PAGES = frozenset({"/docs", "/openapi.json", *ASSETS})
# Its paths are relative, so that it works behind a proxy that adds a prefix. Without validatorUrl Swagger UI would show the
# document to a validator on the network.
PAGE = b"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Valence</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script>
SwaggerUIBundle({ url: "openapi.json", dom_id: "#swagger-ui", validatorUrl: null, deepLinking: true });
</script>
</body>
</html>
"""
# The browser itself refuses anything from elsewhere.
POLICY = (
    b"content-security-policy",
    b"default-src 'none'; connect-src 'self'; img-src 'self' data:; script-src 'self' 'unsafe-inline'; "
    b"style-src 'self' 'unsafe-inline'",
)


class Documentation:
    """Handlers; everything is read once, before the HTTP processes are forked."""

    def __init__(self) -> None:
        self._document = orjson.dumps(document())
        folder = files("fastapi_offline") / "static"
        self._assets = {path: (folder / path.rpartition("/")[2]).read_bytes() for path in ASSETS}
        self.routes: dict[str, tuple[str, Handler]] = {
            "/docs": ("GET", self.page),
            "/openapi.json": ("GET", self.openapi),
            **dict.fromkeys(ASSETS, ("GET", self.asset)),
        }

    async def page(self, call: Call) -> Answer:
        """The HTML around Swagger UI."""
        return Answer(200, PAGE, [(b"content-type", b"text/html; charset=utf-8"), POLICY])

    async def openapi(self, call: Call) -> Answer:
        """The OpenAPI document."""
        return Answer(200, self._document, [JSON])

    async def asset(self, call: Call) -> Answer:
        """Swagger UI's script or style sheet."""
        path = call.scope["path"]
        return Answer(200, self._assets[path], [(b"content-type", ASSETS[path]), (b"cache-control", b"max-age=3600")])
