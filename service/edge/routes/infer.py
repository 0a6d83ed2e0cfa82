"""Routes of the Open Inference Protocol v2, which Triton, KServe and MLServer speak: what is served, is it ready, infer."""

import re

from typing_extensions import TypedDict

from service import __version__
from service.edge import errors
from service.edge.call import Answer, Call, Handler, json_answer, read_body
from service.edge.labelling import BY_PROBLEM_TYPE, FUNCTIONS
from service.edge.routes.tensors import HEADER_LENGTH, VERSION, infer_answer, parse_infer
from service.edge.scoring import Job, Scorer
from service.served.catalog import ServedModel

MODEL_PATH = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?(/ready|/infer)?")


class ServerMetadata(TypedDict):
    """Which server, and what it can do beyond the protocol."""

    name: str
    version: str
    extensions: list[str]


class Live(TypedDict):
    """The process answers."""

    live: bool


class Ready(TypedDict):
    """Every worker has let every model answer a real forward."""

    ready: bool


class ModelReady(Ready):
    """The same of one model."""

    name: str


class TensorMetadata(TypedDict):
    """`shape`: -1 stands for the number of texts."""

    name: str
    datatype: str
    shape: list[int]


class ModelParameters(TypedDict):
    """`labels` names the columns of `scores`."""

    labels: list[str]


class ModelMetadata(TypedDict):
    """What one model takes and gives."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    parameters: ModelParameters


def route_name(path: str) -> str | None:
    """The route that a path of this protocol belongs to, for dispatch and as the metrics' label."""
    match = MODEL_PATH.fullmatch(path)
    return None if match is None else f"/v2/models/{{name}}{match[3] or ''}"


class InferenceProtocol:
    """Handlers over a scorer. `ready` answers where every worker is ready and raises 503 otherwise."""

    def __init__(self, scorer: Scorer, *, ready: Handler) -> None:
        self.scorer = scorer
        self._ready = ready
        self.routes: dict[str, tuple[str, Handler]] = {
            "/v2": ("GET", self.server),
            "/v2/health/live": ("GET", self.live),
            "/v2/health/ready": ("GET", self.ready),
            "/v2/models/{name}": ("GET", self.model),
            "/v2/models/{name}/ready": ("GET", self.model_ready),
            "/v2/models/{name}/infer": ("POST", self.infer),
        }

    async def server(self, call: Call) -> Answer:
        """Which server this is."""
        return json_answer(200, ServerMetadata(name="valence", version=__version__, extensions=["binary_tensor_data"]))

    async def live(self, call: Call) -> Answer:
        """Liveness."""
        return json_answer(200, Live(live=True))

    async def ready(self, call: Call) -> Answer:
        """Readiness of every model."""
        await self._ready(call)
        return json_answer(200, Ready(ready=True))

    async def model(self, call: Call) -> Answer:
        """Tensors and labels of one model."""
        return json_answer(200, metadata(self.scorer.catalog[self._place(call)]))

    async def model_ready(self, call: Call) -> Answer:
        """Every worker holds every model, so one is ready when all are."""
        name = self.scorer.catalog[self._place(call)].name
        await self._ready(call)
        return json_answer(200, ModelReady(name=name, ready=True))

    async def infer(self, call: Call) -> Answer:
        """Scores the texts of one tensor."""
        scorer = self.scorer
        with scorer.admitted():
            timeout_s = scorer.timeout_s(call)
            place = self._place(call)
            body = await read_body(call, scorer.settings.payload_limit, timeout_s)
            request = parse_infer(body, call.headers.get(HEADER_LENGTH))
            job = Job(
                place=place,
                texts=request.texts,
                timeout_s=min(timeout_s, request.timeout_s or timeout_s),
                truncate=request.truncate,
                truncate_left=request.truncate_left,
            )
            scored = await scorer.score(call, job)
            score = FUNCTIONS[request.function or BY_PROBLEM_TYPE[scored.model.problem_type]]
            rows = [score(row) for row in scored.reply.rows]
            answer = infer_answer(request, rows, model=scored.model.name, labels=scored.model.labels)
            return Answer(answer.status, answer.body, [*answer.headers, *scorer.finished(call, scored)])

    def _place(self, call: Call) -> int:
        match = MODEL_PATH.fullmatch(call.scope["path"])
        assert match is not None, "route_name chose this handler"
        if match[2] not in (None, VERSION):
            raise errors.not_found(f"no such version; every model is served as version {VERSION}")
        return self.scorer.place(match[1])


def metadata(model: ServedModel) -> ModelMetadata:
    """What the protocol says of one model."""
    return {
        "name": model.name,
        "versions": [VERSION],
        "platform": "valence",
        "inputs": [{"name": "text", "datatype": "BYTES", "shape": [-1]}],
        "outputs": [
            {"name": "label", "datatype": "BYTES", "shape": [-1]},
            {"name": "scores", "datatype": "FP32", "shape": [-1, len(model.labels)]},
        ],
        "parameters": {"labels": list(model.labels)},
    }
