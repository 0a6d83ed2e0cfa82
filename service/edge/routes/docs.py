"""`GET /docs` and `/openapi.json`: the document, and Swagger UI to read it, from a package and not from the network."""

from importlib.resources import files

from service.edge.http.call import JSON, Call, Response
from service.edge.routes.route import Route, Services

ASSETS = {"/docs/swagger-ui-bundle.js": b"text/javascript; charset=utf-8", "/docs/swagger-ui.css": b"text/css; charset=utf-8"}
# Its paths are relative, so that it works behind a proxy that adds a prefix. Unless validatorUrl is null, Swagger UI shows the
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
# With it the browser loads nothing from another server.
POLICY = (
    b"content-security-policy",
    b"default-src 'none'; connect-src 'self'; img-src 'self' data:; script-src 'self' 'unsafe-inline'; "
    b"style-src 'self' 'unsafe-inline'",
)


async def page(edge: Services, call: Call) -> Response:
    """The HTML around Swagger UI."""
    return Response(200, PAGE, [(b"content-type", b"text/html; charset=utf-8"), POLICY])


async def openapi(edge: Services, call: Call) -> Response:
    """The OpenAPI document."""
    return Response(200, edge.document, [JSON])


async def asset(edge: Services, call: Call) -> Response:
    """Swagger UI's script or style sheet."""
    path = "/docs/" + call.scope["path"].rpartition("/")[2]
    return Response(200, edge.assets[path], [(b"content-type", ASSETS[path]), (b"cache-control", b"max-age=3600")])


def read_assets() -> dict[str, bytes]:
    """The files by path; read once, before the HTTP processes are forked."""
    folder = files("fastapi_offline") / "static"
    return {path: (folder / path.rpartition("/")[2]).read_bytes() for path in ASSETS}


ROUTES = (
    Route(method="GET", path="/docs", handle=page),
    Route(method="GET", path="/openapi.json", handle=openapi),
    *(Route(method="GET", path=path, handle=asset) for path in ASSETS),
)
