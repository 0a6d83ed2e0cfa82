"""Embeddings for a start without pre-trained ones: which tokens stand near which, in the training texts alone.

A matrix holds the positive pointwise mutual information of tokens at most `WINDOW` apart, contexts smoothed by the power 0.75.
The embeddings are its leading singular directions, which Levy & Goldberg 2014 (https://papers.nips.cc/paper/5477) take in place
of word2vec.

Shapes: `V` vocabulary, `D` width.
"""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.sparse import coo_matrix, csr_matrix
from sklearn.utils.extmath import randomized_svd

WINDOW = 5
CONTEXT_POWER = 0.75
SPREAD = 0.3  # standard deviation of what comes out


def cooccurrence_embeddings(texts: Sequence[Sequence[int]], *, vocab_size: int, width: int, pad_token_id: int) -> torch.Tensor:
    """(V, D) float32 from `texts` as token ids; a token that occurs in none is zero, and so is the padding row."""
    counts_VV = cooccurrences(texts, vocab_size=vocab_size)
    tokens_V = np.asarray(counts_VV.sum(axis=1)).ravel()
    contexts_V = tokens_V**CONTEXT_POWER
    contexts_V /= contexts_V.sum()
    pairs = counts_VV.tocoo()
    information = np.log(pairs.data / tokens_V[pairs.row] / contexts_V[pairs.col])
    positive = information > 0
    matrix_VV = csr_matrix((information[positive], (pairs.row[positive], pairs.col[positive])), shape=counts_VV.shape)
    left_VD, singular_D, _ = randomized_svd(matrix_VV, width, random_state=0)
    embeddings_VD = left_VD * np.sqrt(singular_D)
    embeddings_VD[pad_token_id] = 0
    return torch.tensor(embeddings_VD * SPREAD / embeddings_VD.std(), dtype=torch.float32)


def cooccurrences(texts: Sequence[Sequence[int]], *, vocab_size: int) -> csr_matrix:
    """(V, V): how often two tokens stand at most `WINDOW` apart, in either order."""
    rows = [np.asarray(text) for text in texts]
    total = csr_matrix((vocab_size, vocab_size))
    for distance in range(1, WINDOW + 1):
        longer = [row for row in rows if len(row) > distance]
        if longer:
            first = np.concatenate([row[:-distance] for row in longer])
            second = np.concatenate([row[distance:] for row in longer])
            near = coo_matrix((np.ones(len(first)), (first, second)), shape=total.shape).tocsr()
            total = total + near + near.T
    return total
