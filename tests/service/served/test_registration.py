"""A module of the operator's never takes the place of an architecture that is there."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from transformers import BertForSequenceClassification

from service.served.catalog import CatalogError
from service.served.registration import MAPPINGS, register_all

HEAD = """
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification
from transformers import PreTrainedConfig, PreTrainedModel
from models.custom_bert import CustomBertConfig

class MyConfig(PreTrainedConfig):
    model_type = {kind!r}

class MyModel(BertForSequenceClassification):
    config_class = MyConfig
"""
Write = Callable[..., str]


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    """What a test registers is taken back."""
    register_all(())
    before = [dict(mapping._extra_content) for mapping in MAPPINGS]
    yield
    for mapping, content in zip(MAPPINGS, before, strict=True):
        mapping._extra_content.clear()
        mapping._extra_content.update(content)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """`write(lines, kind=..., name=...)`: a module of the operator's, by its name."""
    monkeypatch.syspath_prepend(tmp_path)

    def written(*lines: str, kind: str = "mine", name: str = "") -> str:
        name = name or f"operators_{abs(hash((lines, kind)))}"
        (tmp_path / f"{name}.py").write_text(HEAD.format(kind=kind) + "\n".join(lines))
        return name

    return written


def refusal(*modules: str) -> str:
    with pytest.raises(CatalogError) as caught:
        register_all(modules)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("kind", "theirs"),
    [
        ("valence_bert", "models.custom_bert.configuration_custom_bert.CustomBertConfig"),
        ("sentiment_lstm", "models.sentiment_lstm.configuration_sentiment_lstm.SentimentLstmConfig"),
        ("bert", "transformers.models.bert.configuration_bert.BertConfig"),
    ],
)
def test_a_model_type_that_is_taken_is_refused_with_both_classes(write: Write, kind: str, theirs: str) -> None:
    module = write(f"AutoConfig.register({kind!r}, MyConfig, exist_ok=True)", kind=kind)
    assert refusal(module) == (
        f"--import-modules {module}: registers {module}.MyConfig for the model_type {kind!r}, which is {theirs}'s already; "
        "give it a model_type and a configuration of its own"
    )


@pytest.mark.parametrize(
    ("config", "theirs"),
    [
        ("BertConfig", "transformers.models.bert.modeling_bert.BertForSequenceClassification"),
        ("CustomBertConfig", "models.custom_bert.modeling_custom_bert.CustomBertForSequenceClassification"),
    ],
)
def test_a_class_in_anothers_place_is_refused_with_both(write: Write, config: str, theirs: str) -> None:
    module = write(
        f"class Other(MyModel): config_class = {config}",
        f"AutoModelForSequenceClassification.register({config}, Other, exist_ok=True)",
    )
    message = refusal(module)
    assert message.startswith(f"--import-modules {module}: registers {module}.Other for the configuration ")
    assert f"which is {theirs}'s already" in message


def test_without_exist_ok_transformers_says_it(write: Write) -> None:
    module = write("AutoConfig.register('bert', MyConfig)", kind="bert")
    assert "'bert' is already used by a Transformers config, pick another name" in refusal(module)


def test_two_modules_do_not_take_each_others_place(write: Write) -> None:
    lines = "AutoConfig.register('mine', MyConfig, exist_ok=True)"
    first, second = write(lines, name="operators_first"), write(lines, name="operators_second")
    register_all([first])
    assert f"registers {second}.MyConfig for the model_type 'mine', which is {first}.MyConfig's already" in refusal(first, second)


def test_an_architecture_of_its_own_is_registered(write: Write) -> None:
    """One that nobody has, and one that only the class shares with transformers."""
    module = write(
        "AutoConfig.register('readers_own', MyConfig)",
        "AutoModelForSequenceClassification.register(MyConfig, MyModel)",
        "class BertConfig(PreTrainedConfig):",
        "    model_type = 'mine_too'",
        "AutoConfig.register('mine_too', BertConfig)",
        "AutoModelForSequenceClassification.register(",
        "    BertConfig, type('Other', (MyModel,), {'config_class': BertConfig}), exist_ok=True)",
        kind="readers_own",
    )
    register_all([module])
    register_all([module])
    config = MAPPINGS[0]["readers_own"]
    assert MAPPINGS[-1][config].__mro__[1] is BertForSequenceClassification
