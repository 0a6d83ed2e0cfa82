"""NVIDIA's own client speaks the Open Inference Protocol to the service."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

TEXTS = ["a wonderful film", "the train leaves at nine", "😍 not bad", "terrible"]
LONG = "wonderful film " * 60


@pytest.fixture(scope="module")
def client(server: Any) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.url.removeprefix("http://"), network_timeout=60) as opened:
        yield opened


def tensor(texts: Sequence[str | bytes], *, binary: bool = True, name: str = "text", column: bool = False) -> triton.InferInput:
    values = np.array([text.encode() if isinstance(text, str) else text for text in texts], dtype=object)
    values = values.reshape(-1, 1) if column else values
    found = triton.InferInput(name, list(values.shape), "BYTES")
    found.set_data_from_numpy(values, binary_data=binary)
    return found


def outputs(*, binary: bool) -> list[triton.InferRequestedOutput]:
    return [triton.InferRequestedOutput(name, binary_data=binary) for name in ("label", "scores")]


def expected(server: Any, texts: Sequence[str], **fields: Any) -> list[list[float]]:
    """The scores of `/predict`, in the order of the labels."""
    answers = server.predict(list(texts), **fields).json()
    return [
        [{item["label"]: item["score"] for item in row}[label] for label in ("negative", "neutral", "positive")]
        for row in answers
    ]


@pytest.mark.parametrize("version", ["", "1"])
@pytest.mark.parametrize("name", ["tiny-bert", "tiny-lstm", "keyword"])
def test_a_served_model_is_live_ready_and_described(client: triton.InferenceServerClient, name: str, version: str) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(name, version)
    described = client.get_model_metadata(name, version)
    assert described["name"] == name
    assert described["versions"] == ["1"]
    assert described["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    assert described["outputs"][1] == {"name": "scores", "datatype": "FP32", "shape": [-1, 3]}
    assert described["parameters"]["labels"] == ["negative", "neutral", "positive"]


def test_the_server_is_described(client: triton.InferenceServerClient) -> None:
    described = client.get_server_metadata()
    assert described["name"] == "valence"
    assert "binary_tensor_data" in described["extensions"]


@pytest.mark.parametrize(("name", "version"), [("none", ""), ("tiny-bert", "2")])
def test_what_is_not_served_is_not_ready(client: triton.InferenceServerClient, name: str, version: str) -> None:
    assert not client.is_model_ready(name, version)
    with pytest.raises(InferenceServerException, match="no such"):
        client.get_model_metadata(name, version)


@pytest.mark.parametrize("binary_answer", [True, False])
@pytest.mark.parametrize("binary_request", [True, False])
@pytest.mark.parametrize("column", [True, False])
def test_infer_gives_the_scores_of_predict(
    server: Any, client: triton.InferenceServerClient, binary_request: bool, binary_answer: bool, column: bool
) -> None:
    result = client.infer(
        "tiny-bert",
        [tensor(TEXTS, binary=binary_request, column=column)],
        outputs=outputs(binary=binary_answer),
        request_id="mine-1",
    )
    rows = expected(server, TEXTS)
    assert result.as_numpy("scores").dtype == np.float32
    assert result.as_numpy("scores") == pytest.approx(np.array(rows), abs=1e-5)
    labels = [label.decode() if isinstance(label, bytes) else label for label in result.as_numpy("label").tolist()]
    assert labels == [["negative", "neutral", "positive"][int(np.argmax(row))] for row in rows]
    assert result.get_response()["id"] == "mine-1"
    assert (result.get_response()["model_name"], result.get_response()["model_version"]) == ("tiny-bert", "1")


def test_without_outputs_everything_comes_binary(server: Any, client: triton.InferenceServerClient) -> None:
    result = client.infer("tiny-lstm", [tensor(TEXTS)], model_version="1")
    assert result.get_output("scores")["parameters"] == {"binary_data_size": 4 * 3 * len(TEXTS)}
    assert result.as_numpy("scores") == pytest.approx(np.array(expected(server, TEXTS, model="tiny-lstm")), abs=1e-5)
    assert result.as_numpy("label").shape == (len(TEXTS),)


@pytest.mark.parametrize("name", ["label", "scores"])
def test_only_the_outputs_asked_for_come(client: triton.InferenceServerClient, name: str) -> None:
    response = client.infer("tiny-bert", [tensor(TEXTS)], outputs=[triton.InferRequestedOutput(name)]).get_response()
    assert [output["name"] for output in response["outputs"]] == [name]


@pytest.mark.parametrize("count", [1, 64])
def test_a_batch_comes_back_in_its_order(server: Any, client: triton.InferenceServerClient, count: int) -> None:
    texts = [f"{TEXTS[place % 4]} number {place}" for place in range(count)]
    found = client.infer("tiny-bert", [tensor(texts)]).as_numpy("scores")
    assert found == pytest.approx(np.array(expected(server, texts)), abs=1e-5)


def test_requests_may_overlap(server: Any, client: triton.InferenceServerClient) -> None:
    with triton.InferenceServerClient(server.url.removeprefix("http://"), concurrency=8) as many:
        pending = [many.async_infer("tiny-bert", [tensor([text])]) for text in TEXTS * 8]
        rows = [request.get_result().as_numpy("scores")[0] for request in pending]
    assert np.array(rows) == pytest.approx(np.array(expected(server, TEXTS) * 8), abs=1e-5)


@pytest.mark.parametrize(
    ("parameters", "fields"),
    [
        ({"raw_scores": True}, {"raw_scores": True}),
        ({"function_to_apply": "sigmoid"}, {"parameters": {"function_to_apply": "sigmoid"}}),
        ({"truncation_direction": "Left"}, {"truncation_direction": "left"}),
    ],
)
def test_parameters_are_those_of_predict(
    server: Any, client: triton.InferenceServerClient, parameters: dict[str, Any], fields: dict[str, Any]
) -> None:
    texts = ["good " * 46 + "terrible", "bad"]
    found = client.infer("tiny-bert", [tensor(texts)], parameters=parameters).as_numpy("scores")
    assert found == pytest.approx(np.array(expected(server, texts, **fields)), abs=1e-5)


@pytest.mark.parametrize("response", ["gzip", "deflate", None])
@pytest.mark.parametrize("request_", ["gzip", "deflate", None])
def test_compression_changes_nothing(
    server: Any, client: triton.InferenceServerClient, request_: str | None, response: str | None
) -> None:
    texts = TEXTS * 16  # an answer of more than 1 KB
    found = client.infer(
        "tiny-bert", [tensor(texts)], request_compression_algorithm=request_, response_compression_algorithm=response
    )
    assert found.as_numpy("scores") == pytest.approx(np.array(expected(server, texts)), abs=1e-5)


@pytest.mark.parametrize(
    ("model", "texts", "options", "status", "said"),
    [
        ("none", ["good"], {}, "404", "no such model"),
        ("tiny-bert", ["good"], {"model_version": "2"}, "404", "no such version"),
        ("tiny-bert", [""], {}, "400", "nothing to score"),
        ("tiny-bert", [b"\xff"], {}, "422", "inputs.0: element 0 is not UTF-8"),
        ("tiny-bert", ["good", b"\xed\xa0\x80"], {}, "422", "inputs.0: element 1 is not UTF-8"),
        ("tiny-bert", ["good"] * 65, {}, "422", "65 texts exceed the limit of 64"),
        ("tiny-bert", [LONG], {"parameters": {"truncate": False}}, "422", "tokens exceed the model's limit of 48"),
        ("tiny-bert", [LONG * 200], {}, "413", "100000 bytes"),
        ("failing", ["good", "poison"], {}, "424", "text 1 of this request"),
        ("failing", ["slow"], {"timeout": 1}, "504", "no answer within"),
        ("tiny-bert", ["good"], {"outputs": [triton.InferRequestedOutput("none")]}, "422", "outputs.0.name: "),
        ("tiny-bert", ["good"], {"outputs": [triton.InferRequestedOutput("scores", class_count=2)]}, "422", "classification: "),
    ],
)
def test_an_error_reaches_the_caller(
    client: triton.InferenceServerClient, model: str, texts: list[str], options: dict[str, Any], status: str, said: str
) -> None:
    with pytest.raises(InferenceServerException) as caught:
        client.infer(model, [tensor(texts)], **options)
    assert caught.value.status() == status
    assert said in caught.value.message()


def test_a_tensor_of_numbers_is_refused(client: triton.InferenceServerClient) -> None:
    numbers = triton.InferInput("text", [2], "FP32")
    numbers.set_data_from_numpy(np.zeros(2, dtype=np.float32))
    with pytest.raises(InferenceServerException, match=r"inputs\.0\.datatype: "):
        client.infer("tiny-bert", [numbers])


def test_what_was_inferred_is_counted(server: Any, client: triton.InferenceServerClient, wait: Callable[..., None]) -> None:
    labels = {"route": "/v2/models/{name}/infer", "model": "tiny-lstm", "status": "200"}
    before = server.metric("valence_requests_total", **labels)
    for _ in range(3):
        client.infer("tiny-lstm", [tensor(TEXTS)])
    wait(lambda: server.metric("valence_requests_total", **labels) == before + 3, timeout_s=10)
