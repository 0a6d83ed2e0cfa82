"""Starts a new vocabulary from a trained one: each new token's embedding is made of its pieces in the old vocabulary."""

import unicodedata

import torch
from transformers import PreTrainedTokenizerBase

# What a piece of a word looks like: WordPiece marks the continuation, BPE and Unigram mark the start.
CONTINUATION = "##"
WORD_STARTS = ("\u0120", "\u2581")


class PieceMap:
    """Spells the tokens of a new vocabulary in the pieces of an old WordPiece one.

    With BERT's vocabulary as the old one, "rofl" becomes ro, ##fl and U+1F525 becomes fire, its Unicode name.
    """

    def __init__(self, old: PreTrainedTokenizerBase, new: PreTrainedTokenizerBase) -> None:
        self.old, self.new = old, new
        self.vocabulary: dict[str, int] = old.get_vocab()
        self.marks_word_starts = any(token.startswith(WORD_STARTS) for token in new.get_vocab())
        roles = ("unk_token", "cls_token", "sep_token", "mask_token")
        self.special = {getattr(new, role): getattr(old, role) for role in roles}

    def pieces(self, token: str) -> list[str]:
        """The old tokens that spell `token`; empty if the old vocabulary has none of its characters."""
        if token in self.special:
            return [self.special[token]]
        surface, continues = self._surface(token)
        whole = CONTINUATION + surface if continues else surface
        if whole in self.vocabulary:
            return [whole]
        if len(surface) == 1 and unicodedata.category(surface) == "So":
            surface = unicodedata.name(surface, surface).lower()
        return [piece for piece in self.old.tokenize(surface) if piece != self.old.unk_token]

    def _surface(self, token: str) -> tuple[str, bool]:
        """The characters a token stands for, and whether it goes on a word."""
        if self.marks_word_starts:
            return self.new.convert_tokens_to_string([token]).strip(), not token.startswith(WORD_STARTS)
        return token.removeprefix(CONTINUATION), token.startswith(CONTINUATION)


def carry_over_embeddings(
    old: PreTrainedTokenizerBase, old_embeddings_VD: torch.Tensor, new: PreTrainedTokenizerBase
) -> torch.Tensor:
    """Embeddings (new vocabulary, D) for `new`, from those of the WordPiece tokenizer `old`, (old vocabulary, D).

    A token is the mean of its old pieces (`PieceMap`), which is its own row where `old` has it too; one without pieces is the
    mean of all rows; the padding row is zero.
    """
    spelling = PieceMap(old, new)
    mean_D = old_embeddings_VD.mean(dim=0)
    rows = []
    for token in new.convert_ids_to_tokens(range(len(new))):
        ids = [spelling.vocabulary[piece] for piece in spelling.pieces(token)]
        rows.append(old_embeddings_VD[ids].mean(dim=0) if ids else mean_D)
    embeddings_VD = torch.stack(rows)
    embeddings_VD[new.pad_token_id] = 0
    return embeddings_VD


def narrow_embeddings(embeddings_VD: torch.Tensor, width: int) -> torch.Tensor:
    """(V, width): each row projected on the `width` directions in which the rows are longest. Of all such projections this one
    keeps most of their inner products (Eckart & Young 1936). Raises ValueError where there are fewer directions."""
    if width > embeddings_VD.shape[1]:
        raise ValueError(f"embeddings {embeddings_VD.shape[1]} wide can't be carried over to {width}; make the model's no wider")
    if width == embeddings_VD.shape[1]:
        return embeddings_VD
    _, directions_DD = torch.linalg.eigh(embeddings_VD.T @ embeddings_VD)  # the longest come last
    return embeddings_VD @ directions_DD[:, -width:]
