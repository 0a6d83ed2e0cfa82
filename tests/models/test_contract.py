"""What every architecture must hold to; the rows of `conftest.ARCHITECTURES` are the architectures."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, PreTrainedModel

from models.registration import ARCHITECTURES as REGISTERED

ROOT = Path(__file__).parents[2]

# Logits are of order 1, where a float32 has steps of 1e-7; another batch shape adds the products up in another order.
FLOAT32_NOISE = 5e-6

LABELS = {
    "single_label_classification": torch.tensor([0, 1, 2, 1]),
    "multi_label_classification": torch.tensor([[1.0, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]]),
    "regression": torch.tensor([0.5, -1.0, 2.0, 0.0]),
}


def tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and all buffers, those that a checkpoint does not hold included."""
    return dict(model.named_parameters()) | dict(model.named_buffers())


def assert_same_tensors(left: nn.Module, right: nn.Module) -> None:
    assert tensors(left).keys() == tensors(right).keys()
    different = [name for name, tensor in tensors(left).items() if not torch.equal(tensor, tensors(right)[name])]
    assert not different


class TestRegistration:
    def test_every_registered_architecture_is_under_contract(self, architectures):
        under_contract = [architecture.config.model_type for architecture in architectures]
        assert list(dict.fromkeys(under_contract)) == [config.model_type for config, _, _ in REGISTERED]

    def test_tiny_configuration_is_of_the_registered_class(self, config):
        assert type(AutoConfig.for_model(config.model_type)) is type(config)


class TestConfiguration:
    def test_survives_a_round_trip(self, config, tmp_path):
        config.save_pretrained(tmp_path)
        assert AutoConfig.from_pretrained(tmp_path).to_diff_dict() == config.to_diff_dict()

    @pytest.mark.parametrize("num_labels", [1, 2, 3, 5])
    def test_keeps_its_number_of_labels(self, config, num_labels, tmp_path):
        type(config)(num_labels=num_labels).save_pretrained(tmp_path)
        assert AutoConfig.from_pretrained(tmp_path).num_labels == num_labels

    def test_keeps_its_label_names(self, config, tmp_path):
        names = {0: "negative", 1: "positive"}
        type(config)(id2label=names, label2id={name: index for index, name in names.items()}).save_pretrained(tmp_path)
        assert AutoConfig.from_pretrained(tmp_path).id2label == names

    def test_refuses_a_misspelt_field(self, config):
        with pytest.raises(ValueError, match=r"has no field 'hiden_size'; did you mean 'hidden_size'\?"):
            type(config)(hiden_size=8)

    def test_refuses_a_misspelt_field_of_a_file(self, config, tmp_path):
        (tmp_path / "config.json").write_text(json.dumps(config.to_diff_dict() | {"vocab_sise": 5}), encoding="utf-8")
        with pytest.raises(ValueError, match="did you mean 'vocab_size'"):
            AutoConfig.from_pretrained(tmp_path)

    def test_states_the_length_limit_and_the_tokenizer(self, config):
        assert config.max_position_embeddings > 0
        assert config.tokenizer_name is None


class TestCheckpoint:
    def test_load_is_bit_equal_buffers_included(self, model, batches, tmp_path):
        model.save_pretrained(tmp_path)
        loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
        assert_same_tensors(model, loaded)
        # the same numbers in other memory: BLAS may pick another kernel by alignment
        torch.testing.assert_close(model(**batches.padded()).logits, loaded(**batches.padded()).logits, atol=1e-6, rtol=0)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
    def test_half_precision_is_bit_equal_and_widens_exactly(self, model, dtype, tmp_path):
        model.to(dtype).save_pretrained(tmp_path)
        assert_same_tensors(model, AutoModelForSequenceClassification.from_pretrained(tmp_path))
        wide = AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype=torch.float32)
        assert_same_tensors(model.float(), wide)

    def test_base_model_reads_a_classifiers_checkpoint_and_the_reverse(self, model, tmp_path):
        model.save_pretrained(tmp_path / "classifier")
        base, report = AutoModel.from_pretrained(tmp_path / "classifier", output_loading_info=True)
        assert not report["missing_keys"]
        assert_same_tensors(base, getattr(model, model.base_model_prefix))
        base.save_pretrained(tmp_path / "base")
        classifier = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base")
        assert_same_tensors(base, getattr(classifier, classifier.base_model_prefix))

    def test_another_number_of_labels_makes_a_new_head(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=5, ignore_mismatched_sizes=True)
        assert loaded.classifier.out_features == 5
        assert all(tensor.isfinite().all() for tensor in tensors(loaded).values())


FRESH_PROCESS = """
import json, sys
import torch
from transformers import AutoModelForSequenceClassification as Auto

tokens = torch.tensor([[2, 17, 40, 41, 3]])
copied = [Auto.from_pretrained(f"{folder}_copied", trust_remote_code=True).eval() for folder in sys.argv[1:]]
from models import register_architectures
register_architectures()
known = [Auto.from_pretrained(folder, trust_remote_code=False).eval() for folder in sys.argv[1:]]
rows = {model.config.model_type: [type(model).__module__, model(tokens).logits[0].tolist()] for model in known}
print(json.dumps([{m.config.model_type: m(tokens).logits[0].tolist() for m in copied}, rows]))
"""


@pytest.fixture(scope="module")
def fresh_process(tmp_path_factory) -> list[dict[str, list]]:
    """Logits of every architecture in a new interpreter: first from the two files copied beside the weights and nothing of
    this repository, then from the registered classes. One process for all, since starting one takes seconds."""
    folders = []
    for config_class, _, classifier in REGISTERED:
        folder = tmp_path_factory.mktemp(config_class.model_type)
        folders.append(str(folder))
        torch.manual_seed(0)
        model = classifier(config_class(vocab_size=50, hidden_size=12, num_hidden_layers=1, max_position_embeddings=8))
        model.save_pretrained(folder)
        with pytest.MonkeyPatch.context() as patch:  # what register_for_auto_class sets, for as long as it takes to save
            patch.setattr(config_class, "_auto_class", "AutoConfig", raising=False)
            patch.setattr(classifier, "_auto_class", "AutoModelForSequenceClassification", raising=False)
            model.save_pretrained(f"{folder}_copied")
    answer = subprocess.run(
        [sys.executable, "-c", FRESH_PROCESS, *folders],
        cwd=ROOT,
        env=os.environ | {"HF_MODULES_CACHE": str(tmp_path_factory.mktemp("modules")), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(answer.stdout.splitlines()[-1])


class TestFreshProcess:
    def test_loads_through_the_auto_classes(self, config, fresh_process):
        module, logits = fresh_process[1][config.model_type]
        assert module.startswith("models.")
        assert len(logits) == type(config)().num_labels

    def test_two_copied_files_are_enough(self, config, fresh_process):
        assert fresh_process[0][config.model_type] == fresh_process[1][config.model_type][1]


class TestInput:
    @pytest.mark.parametrize("extra", [0, 1, 17])
    def test_text_alone_equals_text_in_a_padded_batch(self, model, batches, extra):
        batched = model(**batches.padded(extra=extra)).logits
        alone = torch.cat([model(torch.tensor([text])).logits for text in batches.texts])
        torch.testing.assert_close(batched, alone, atol=FLOAT32_NOISE, rtol=0)

    def test_packed_equals_padded(self, packed_model, batches):
        assert packed_model._supports_packed
        packed = packed_model(**batches.packed()).logits
        padded_model = copy.deepcopy(packed_model)
        padded_model.set_attn_implementation("eager")
        torch.testing.assert_close(packed, padded_model(**batches.padded()).logits, atol=FLOAT32_NOISE, rtol=0)

    def test_packed_text_does_not_see_its_neighbours(self, packed_model, batches):
        first, _, *rest = batches.texts
        changed = type(batches)((first, (2, 60, 3), *rest))
        difference = packed_model(**batches.packed()).logits - packed_model(**changed.packed()).logits
        assert difference[[0, 2, 3]].abs().max() == 0
        assert difference[1].abs().max() > 0.001

    def test_empty_text_at_the_end_of_a_pack_is_harmless(self, packed_model, batches):
        logits = packed_model(**batches.with_empty_text().packed()).logits
        assert logits.isfinite().all()
        torch.testing.assert_close(logits[:-1], packed_model(**batches.packed()).logits, atol=FLOAT32_NOISE, rtol=0)

    def test_row_of_padding_is_harmless(self, model, batches):
        logits = model(**batches.with_empty_text().padded()).logits
        assert logits.isfinite().all()
        torch.testing.assert_close(logits[:-1], model(**batches.padded()).logits, atol=FLOAT32_NOISE, rtol=0)

    def test_pack_gives_gradients_to_every_parameter(self, packed_model, batches):
        packed_model(**batches.packed(), labels=LABELS["single_label_classification"]).loss.backward()
        missing = [name for name, parameter in packed_model.named_parameters() if parameter.grad is None]
        assert not missing

    def test_embeddings_in_place_of_ids(self, model, batches):
        padded = batches.padded()
        embeddings = model.get_input_embeddings()(padded["input_ids"])
        given = model(inputs_embeds=embeddings, attention_mask=padded["attention_mask"]).logits
        torch.testing.assert_close(given, model(**padded).logits, atol=FLOAT32_NOISE, rtol=0)

    def test_refuses_neither_ids_nor_embeddings(self, model):
        with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
            model()

    def test_takes_the_token_types_of_a_tokenizer(self, model, batches):
        padded = batches.padded()
        typed = model(**padded, token_type_ids=torch.zeros_like(padded["input_ids"])).logits
        assert torch.equal(typed, model(**padded).logits)

    def test_runs_in_bfloat16(self, model, batches):
        exact = model(**batches.padded()).logits
        rounded = model.to(torch.bfloat16)(**batches.padded()).logits
        assert rounded.dtype == torch.bfloat16
        # Each of some 10 products rounds to 8 bits: 10 * 2**-8 of logits of order 1, and headroom of 4.
        torch.testing.assert_close(rounded.float(), exact, atol=0.16, rtol=0)


class TestOutput:
    def test_tuple_holds_loss_then_logits(self, model, batches):
        labels = LABELS["single_label_classification"]
        output = model(**batches.padded(), labels=labels)
        loss, logits = model(**batches.padded(), labels=labels, return_dict=False)[:2]
        assert torch.equal(loss, output.loss)
        assert torch.equal(logits, output.logits)

    def test_tuple_where_the_configuration_asks_for_it(self, model, batches):
        expected = model(**batches.padded()).logits
        model.config.return_dict = False
        (logits,) = model(**batches.padded())
        assert torch.equal(logits, expected)

    def test_base_model_returns_tuple_and_output(self, model, batches):
        base = model.base_model
        output = base(**batches.padded())
        hidden, pooled = base(**batches.padded(), return_dict=False)[:2]
        assert torch.equal(hidden, output.last_hidden_state)
        assert torch.equal(pooled, output.pooler_output)
        assert hidden.shape[:2] == batches.padded()["input_ids"].shape

    @pytest.mark.parametrize("problem_type", LABELS)
    def test_loss_follows_the_problem_type(self, config, batches, problem_type):
        config.problem_type = problem_type
        config.num_labels = 1 if problem_type == "regression" else 3
        model = AutoModelForSequenceClassification.from_config(config).eval()
        labels = LABELS[problem_type]
        output = model(**batches.padded(), labels=labels)
        torch.testing.assert_close(output.loss, expected_loss(problem_type, output.logits, labels))

    def test_every_parameter_gets_a_finite_gradient(self, model, batches):
        model.train()(**batches.padded(), labels=LABELS["single_label_classification"]).loss.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


def expected_loss(problem_type: str, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy, binary cross entropy or squared error, written out."""
    if problem_type == "regression":
        return (logits[:, 0] - labels).square().mean()
    if problem_type == "multi_label_classification":
        probabilities = logits.sigmoid()
        return -(labels * probabilities.log() + (1 - labels) * (1 - probabilities).log()).mean()
    return -logits.log_softmax(-1)[torch.arange(len(labels)), labels].mean()


class TestTraining:
    def test_gradient_checkpointing_gives_equal_gradients_or_is_refused(self, model, batches):
        if not model.supports_gradient_checkpointing:
            with pytest.raises(ValueError, match=r"does not support (gradient|activation) checkpointing"):
                model.gradient_checkpointing_enable()
            return
        expected = gradients(model, batches)
        model.gradient_checkpointing_enable()
        assert model.is_gradient_checkpointing
        found = gradients(model, batches)
        assert all(torch.equal(found[name], expected[name]) for name in expected)

    def test_vocabulary_grows_and_keeps_what_it_knew(self, model, batches):
        before = model(**batches.padded()).logits
        old = model.config.vocab_size
        model.resize_token_embeddings(old + 8)
        assert model.config.vocab_size == model.get_input_embeddings().num_embeddings == old + 8
        assert torch.equal(model(**batches.padded()).logits, before)
        assert model(torch.tensor([[old + 7]])).logits.isfinite().all()


def gradients(model: PreTrainedModel, batches) -> dict[str, torch.Tensor]:
    """Of one training step; the seed makes dropout fall alike."""
    model.zero_grad()
    torch.manual_seed(1)
    model.train()(**batches.padded(), labels=LABELS["single_label_classification"]).loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


class TestInitialisation:
    def test_linear_and_embedding_weights_have_the_configured_spread(self, model):
        weights = [
            module.weight for module in model.modules() if isinstance(module, nn.Linear | nn.Embedding) and len(module.weight) > 9
        ]
        assert weights
        for weight in weights:
            # Four standard errors of a sample's standard deviation; the padding row holds zeros, so it is left out.
            tolerance = 4 / (2 * weight.numel()) ** 0.5
            assert weight[1:].std().item() == pytest.approx(model.config.initializer_range, rel=tolerance)

    def test_padding_row_is_zero(self, model):
        assert model.get_input_embeddings().weight[model.config.pad_token_id].count_nonzero() == 0

    def test_linear_biases_are_zero(self, model):
        assert all(not module.bias.count_nonzero() for module in model.modules() if isinstance(module, nn.Linear))

    def test_layer_norms_start_as_the_identity(self, model):
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                assert (module.weight == 1).all()
                assert (module.bias == 0).all()
