"""The Open Inference Protocol by hand: plain JSON, and requests that no correct client sends."""

import json
import struct
from typing import Any

import pytest

INFER = "/v2/models/tiny-bert/infer"


def tensor(**fields: Any) -> dict[str, Any]:
    return {"name": "text", "shape": [2], "datatype": "BYTES", "data": ["good", "bad"], **fields}


def binary(document: dict[str, Any], tail: bytes) -> dict[str, Any]:
    head = json.dumps(document).encode()
    return {"content": head + tail, "headers": {"inference-header-content-length": str(len(head))}}


def announced(size: int, **fields: Any) -> dict[str, Any]:
    described = tensor(parameters={"binary_data_size": size}, **fields)
    del described["data"]
    return {"inputs": [described]}


def elements(*texts: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


@pytest.mark.parametrize("path", [INFER, "/v2/models/tiny-bert/versions/1/infer"])
@pytest.mark.parametrize("name", ["text", "anything"])
@pytest.mark.parametrize(("shape", "data"), [([2], ["good", "bad"]), ([2, 1], ["good", "bad"]), ([2, 1], [["good"], ["bad"]])])
def test_json_in_json_out(server: Any, path: str, name: str, shape: list[int], data: list[Any]) -> None:
    answer = server.client.post(path, json={"id": "7", "inputs": [tensor(name=name, shape=shape, data=data)]})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-tokens"] == "6"
    found = answer.json()
    assert (found["id"], found["model_name"], found["model_version"]) == ("7", "tiny-bert", "1")
    label, scores = found["outputs"]
    assert (label["name"], label["datatype"], label["shape"]) == ("label", "BYTES", [2])
    assert (scores["name"], scores["datatype"], scores["shape"]) == ("scores", "FP32", [2, 3])
    best = [row[0] for row in server.predict(["good", "bad"]).json()]
    assert label["data"] == [item["label"] for item in best]
    assert [max(scores["data"][:3]), max(scores["data"][3:])] == pytest.approx([item["score"] for item in best], abs=1e-5)


def test_one_output_may_come_as_bytes_and_the_other_as_json(server: Any) -> None:
    asked = [{"name": "scores", "parameters": {"binary_data": True}}, {"name": "label", "parameters": {"binary_data": False}}]
    answer = server.client.post(INFER, json={"inputs": [tensor()], "outputs": asked})
    assert answer.headers["content-type"] == "application/octet-stream"
    length = int(answer.headers["inference-header-content-length"])
    scores, label = json.loads(answer.content[:length])["outputs"]
    assert scores["parameters"] == {"binary_data_size": len(answer.content) - length}
    assert "data" not in scores
    assert len(label["data"]) == 2
    values = struct.unpack("<6f", answer.content[length:])
    assert sum(values) == pytest.approx(2, abs=1e-5)


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({}, 422, "inputs: field required"),
        ([], 422, "the body must be a JSON object"),
        ({"inputs": []}, 422, "inputs: list should have at least 1 item"),
        ({"inputs": [tensor(), tensor()]}, 422, "inputs: list should have at most 1 item"),
        ({"inputs": [tensor(datatype="FP32")]}, 422, "inputs.0.datatype: "),
        ({"inputs": [tensor(shape=[3])]}, 422, "inputs.0.shape: [3] means 3 elements, but the data holds 2"),
        ({"inputs": [tensor(shape=[1, 2])]}, 422, "inputs.0.shape: must be [n] or [n, 1], not [1, 2]"),
        ({"inputs": [tensor(shape=[])]}, 422, "inputs.0.shape: "),
        ({"inputs": [tensor(shape=[-2])]}, 422, "inputs.0.shape.0: "),
        ({"inputs": [tensor(shape=["2"])]}, 422, "inputs.0.shape.0: "),
        ({"inputs": [tensor(data=["good", 3])]}, 422, "inputs.0.data.1"),
        ({"inputs": [tensor(shape=[2.5])]}, 422, "inputs.0.shape.0: "),
        ({"inputs": [tensor(data=None)]}, 422, "inputs.0: needs data, or the parameter binary_data_size"),
        ({"inputs": [tensor(data=["good", ""])]}, 400, "nothing to score"),
        ({"inputs": [tensor(data=[], shape=[0])]}, 400, "nothing to score"),
        ({"inputs": [tensor(parameters={"shared_memory_region": "a"})]}, 422, "shared_memory_region: "),
        ({"inputs": [tensor(parameters={"binary_data_size": 4})]}, 422, "inputs.0: needs data, or"),
        ({"inputs": [tensor()], "outputs": [{"name": "logits"}]}, 422, "outputs.0.name: "),
        ({"inputs": [tensor()], "parameters": {"truncate": "yes"}}, 422, "parameters.truncate: "),
        ({"inputs": [tensor()], "parameters": {"timeout": 0}}, 422, "parameters.timeout: "),
        ({"inputs": [tensor()], "id": 7}, 422, "id: "),
    ],
)
def test_a_wrong_request_is_refused_in_one_sentence(server: Any, body: Any, status: int, said: str) -> None:
    answer = server.client.post(INFER, json=body)
    assert answer.status_code == status
    assert set(answer.json()) == {"error", "error_type"}
    assert said in answer.json()["error"]


TAIL = elements(b"good", b"bad")


@pytest.mark.parametrize(
    ("document", "tail", "said"),
    [
        (announced(len(TAIL)), TAIL[:-1], f"{len(TAIL)} bytes, but {len(TAIL) - 1} follow the JSON"),
        (announced(4), TAIL, f"4 bytes, but {len(TAIL)} follow the JSON"),
        ({"inputs": [tensor()]}, TAIL, f"0 bytes, but {len(TAIL)} follow the JSON"),
        (announced(6), b"\x04\x00\x00\x00go", "end within an element"),
        (announced(2), b"\x04\x00", "end within an element"),
        (announced(8), b"\xff\xff\xff\xff\xff\xff\xff\xff", "end within an element"),
        (announced(len(TAIL), shape=[3]), TAIL, "means 3 elements, but the data holds 2"),
        (announced(9), elements(b"good", b"\xff")[:9] + b"", "end within an element"),
    ],
)
def test_bytes_that_do_not_fit_are_422(server: Any, document: dict[str, Any], tail: bytes, said: str) -> None:
    answer = server.client.post(INFER, **binary(document, tail))
    assert (answer.status_code, answer.json()["error_type"]) == (422, "validation")
    assert said in answer.json()["error"]


@pytest.mark.parametrize("length", ["-1", "x", "1e2", "99999", "9" * 400, ""])
def test_a_header_length_that_is_none_is_400(server: Any, length: str) -> None:
    answer = server.client.post(INFER, json={"inputs": [tensor()]}, headers={"inference-header-content-length": length})
    assert (answer.status_code, answer.json()["error_type"]) == (400, "validation")
    assert "inference-header-content-length" in answer.json()["error"]


@pytest.mark.parametrize(
    "path", ["/v2/", "/v2/models", "/v2/models/tiny-bert/", "/v2/models//infer", "/v2/models/a/b/infer", "/v2/x"]
)
def test_other_paths_are_404(server: Any, path: str) -> None:
    assert server.client.post(path, json={"inputs": [tensor()]}).status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "allowed"), [("GET", INFER, "POST"), ("POST", "/v2", "GET, HEAD"), ("DELETE", "/v2/models/a", "GET, HEAD")]
)
def test_a_wrong_verb_is_405_and_told_the_right_one(server: Any, method: str, path: str, allowed: str) -> None:
    answer = server.client.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


def test_no_label_of_a_metric_holds_a_name_that_a_client_made_up(server: Any) -> None:
    server.client.get("/v2/models/secret-name/versions/secret-version")
    server.client.post("/v2/models/secret-name/infer", json={"inputs": [tensor()]})
    assert "secret" not in server.client.get("/metrics").text
