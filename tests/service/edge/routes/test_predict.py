"""The JSON of a request: its valid forms, and the error for a wrong one."""

import json
from typing import Any

import pytest

from service.edge.http.errors import ServiceError
from service.edge.routes.fields import parsed
from service.edge.routes.predict import PredictRequest, parse_predict
from service.edge.routes.tensors import parse_infer
from service.edge.routes.tokenize import TOKENIZE_BODY


def parse(body: object) -> PredictRequest:
    return parse_predict(json.dumps(body).encode())


@pytest.mark.parametrize("field", ["inputs", "text"])
@pytest.mark.parametrize(
    ("inputs", "texts", "nested"),
    [
        ("a", [("a", None)], False),
        (["a"], [("a", None)], True),
        (["a", "b"], [("a", None), ("b", None)], True),
        ([["a", "b"]], [("a", "b")], True),
        ([["a"]], [("a", None)], True),
        ([["a", "b"], ["c", "d"]], [("a", "b"), ("c", "d")], True),
        ({"text": "a"}, [("a", None)], False),
        ({"text": "a", "text_pair": "b"}, [("a", "b")], False),
        ({"text": "a", "text_pair": None}, [("a", None)], False),
        ([{"text": "a"}, {"text": "b", "text_pair": "c"}], [("a", None), ("b", "c")], True),
        (["a", ["b", "c"], {"text": "d"}], [("a", None), ("b", "c"), ("d", None)], True),
        ([["", "b"]], [("", "b")], True),
        (" ", [(" ", None)], False),
    ],
)
def test_every_form_of_inputs_is_a_list_of_texts(field: str, inputs: Any, texts: list[Any], nested: bool) -> None:
    request = parse({field: inputs})
    assert request.asked.texts == texts
    assert request.nested is nested


@pytest.mark.parametrize(("parameters", "nested"), [({}, True), ({"top_k": 1}, True), (None, False)])
def test_parameters_make_the_answer_of_one_text_a_list_of_lists(parameters: Any, nested: bool) -> None:
    assert parse({"inputs": "a", "parameters": parameters}).nested is nested


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"truncate": True}, True),
        ({"truncate": False}, False),
        ({"overflow": "truncate"}, True),
        ({"overflow": "error"}, False),
        ({"overflow": "window", "truncate": True}, False),
        ({"overflow": "error", "truncate": True}, False),
        ({"parameters": {"truncation": False}}, False),
        ({"truncate": True, "parameters": {"truncation": False}}, True),
    ],
)
def test_overflow_goes_before_truncate_before_parameters(fields: dict[str, Any], expected: bool | None) -> None:
    assert parse({"inputs": "a", **fields}).asked.truncate is expected


@pytest.mark.parametrize(("overflow", "window"), [("window", True), ("truncate", False), ("error", False), (None, False)])
def test_overflow_may_ask_for_windows(overflow: str | None, window: bool) -> None:
    assert parse({"inputs": "a", "overflow": overflow}).asked.window is window


@pytest.mark.parametrize(
    ("direction", "left"), [("left", True), ("Left", True), ("LEFT", True), ("right", False), ("Right", False), (None, None)]
)
def test_truncation_direction_is_read_in_any_case(direction: str | None, left: bool | None) -> None:
    assert parse({"inputs": "a", "truncation_direction": direction}).asked.truncate_left is left


@pytest.mark.parametrize(
    ("fields", "function"),
    [
        ({}, None),
        ({"raw_scores": True}, "none"),
        ({"raw_scores": False}, None),
        ({"parameters": {"function_to_apply": "sigmoid"}}, "sigmoid"),
        ({"raw_scores": True, "parameters": {"function_to_apply": "sigmoid"}}, "none"),
    ],
)
def test_raw_scores_go_before_function_to_apply(fields: dict[str, Any], function: str | None) -> None:
    assert parse({"inputs": "a", **fields}).function == function


def test_unknown_fields_are_ignored() -> None:
    body = {"inputs": "a", "normalize": True, "parameters": {"padding": True, "top_k": 2}, "stream": "?"}
    assert parse(body).top_k == 2


@pytest.mark.parametrize("top_k", ["2", "2.0", "2e0"])
def test_a_whole_number_is_an_integer_however_it_is_written(top_k: str) -> None:
    assert parse_predict(b'{"inputs": "a", "parameters": {"top_k": %s}}' % top_k.encode()).top_k == 2


def test_null_is_a_field_left_out() -> None:
    optional = ("model", "truncate", "truncation_direction", "overflow", "raw_scores", "parameters")
    assert parse({"inputs": "a", **dict.fromkeys(optional)}) == parse({"inputs": "a"})
    parameters = dict.fromkeys(("top_k", "function_to_apply", "truncation"))
    assert parse({"inputs": "a", "parameters": parameters}) == parse({"inputs": "a", "parameters": {}})


@pytest.mark.parametrize("body", [b"", b"{", b"not json", b'{"inputs": "a"', b"\xff\xfe", b'{"inputs": "\\ud800"}'])
def test_a_body_that_is_not_json_is_400(body: bytes) -> None:
    with pytest.raises(ServiceError) as caught:
        parse_predict(body)
    assert (caught.value.status, caught.value.error_type) == (400, "validation")
    assert caught.value.message.startswith("the body is not valid JSON: ")


@pytest.mark.parametrize("inputs", ["", [], [""], ["a", ""], [["", ""]], [[""]], {"text": ""}, [{"text": "", "text_pair": ""}]])
def test_nothing_to_score_is_400(inputs: object) -> None:
    with pytest.raises(ServiceError) as caught:
        parse({"inputs": inputs})
    assert (caught.value.status, caught.value.error_type) == (400, "empty")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ([], "the body must be a JSON object with the field inputs"),
        ("a", "the body must be a JSON object with the field inputs"),
        (None, "the body must be a JSON object with the field inputs"),
        ({}, "inputs: required; send a string"),
        ({"inputs": 3}, "inputs: must be a string"),
        ({"inputs": None}, "inputs: must be a string"),
        ({"text": 3}, "text: must be a string"),
        ({"inputs": ["a", 3]}, "inputs[1]: must be a string"),
        ({"inputs": [["a", 3]]}, "inputs[0]: must be a string"),
        ({"inputs": ["a", None]}, "inputs[1]: must be a string"),
        ({"inputs": {"text": 3}}, "inputs: must be a string"),
        ({"inputs": [[]]}, "inputs[0]: a pair holds one or two strings, not 0"),
        ({"inputs": ["a", ["a", "b", "c"]]}, "inputs[1]: a pair holds one or two strings, not 3"),
        ({"inputs": {"text_pair": "b"}}, "inputs.text: required"),
        ({"inputs": [{"text": "a"}, {}]}, "inputs[1].text: required"),
        ({"inputs": "a", "model": 3}, "model: "),
        ({"inputs": "a", "truncate": "yes"}, "truncate: "),
        ({"inputs": "a", "truncate": 1}, "truncate: "),
        ({"inputs": "a", "truncation_direction": "up"}, "truncation_direction: "),
        ({"inputs": "a", "truncation_direction": 1}, "truncation_direction: "),
        ({"inputs": "a", "overflow": "crash"}, "overflow: "),
        ({"inputs": "a", "raw_scores": "no"}, "raw_scores: "),
        ({"inputs": "a", "parameters": 3}, "parameters: "),
        ({"inputs": "a", "parameters": {"top_k": 0}}, "parameters.top_k: "),
        ({"inputs": "a", "parameters": {"top_k": 1.5}}, "parameters.top_k: "),
        ({"inputs": "a", "parameters": {"top_k": "1"}}, "parameters.top_k: "),
        ({"inputs": "a", "parameters": {"function_to_apply": "tanh"}}, "parameters.function_to_apply: "),
        ({"inputs": "a", "parameters": {"truncation": "no"}}, "parameters.truncation: "),
    ],
)
def test_a_wrong_type_is_422_with_the_fields_name(body: object, said: str) -> None:
    with pytest.raises(ServiceError) as caught:
        parse(body)
    assert (caught.value.status, caught.value.error_type) == (422, "validation")
    assert caught.value.message.startswith(said)
    assert "pydantic" not in caught.value.message


@pytest.mark.parametrize(
    ("inputs", "named"),
    [(["good", ""], "inputs[1]"), ([["a", "b"], ["", ""]], "inputs[1]"), ([{"text": ""}], "inputs[0]"), ({"text": ""}, "inputs")],
)
def test_an_empty_text_is_refused_by_its_place(inputs: object, named: str) -> None:
    with pytest.raises(ServiceError) as caught:
        parse({"inputs": inputs})
    assert (caught.value.status, caught.value.error_type) == (400, "empty")
    assert caught.value.message.startswith(f"{named}: ")


def test_an_empty_element_of_a_tensor_is_refused_by_its_place() -> None:
    tensor = b'{"inputs": [{"name": "text", "shape": [2], "datatype": "BYTES", "data": ["good", ""]}]}'
    with pytest.raises(ServiceError) as caught:
        parse_infer(tensor, None)
    assert (caught.value.status, caught.value.error_type) == (400, "empty")
    assert caught.value.message.startswith("inputs[0].data[1]: ")


def test_a_byte_order_mark_before_the_json_is_ignored() -> None:
    mark = b"\xef\xbb\xbf"
    assert parse_predict(mark + b'{"inputs": "good"}').asked.texts == [("good", None)]
    assert parsed(TOKENIZE_BODY, mark + b'{"inputs": "good"}')["inputs"] == "good"
    tensor = b'{"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["good"]}]}'
    assert parse_infer(mark + tensor, None).asked.texts == [("good", None)]
