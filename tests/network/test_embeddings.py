"""The one gather gives each field's vector, in field order."""

from __future__ import annotations

import torch

from network.embeddings import FieldEmbeddings
from network.inputs import Batch
from tests.network.samples import SHAPE, batch_of


def test_vectors_stand_in_field_order() -> None:
    """Law: x is the concatenation that methods.md 1 says, computed here row by row and field by field."""
    embeddings, batch = FieldEmbeddings(SHAPE), batch_of(50)
    found = embeddings(batch)
    assert found.shape == (50, SHAPE.input_width)
    for i in range(50):
        user, item, genre = batch.sparse[i].tolist()
        tags = [t for t in batch.multi_hot["tags"][i].tolist() if t >= 0]
        vectors = [
            embeddings.table_of("user")[user],
            embeddings.table_of("tags")[tags].mean(0) if tags else torch.zeros(3),
            batch.dense[i, :1],
            embeddings.table_of("item")[item],
            embeddings.table_of("genre")[genre],
            batch.dense[i, 1:],
        ]
        torch.testing.assert_close(found[i], torch.cat(vectors))


def test_padding_has_no_row_and_an_empty_list_is_zero() -> None:
    """Law: padding changes no vector and gets no gradient."""
    embeddings = FieldEmbeddings(SHAPE)
    sparse, dense = torch.zeros((2, 3), dtype=torch.int32), torch.zeros((2, 2))
    narrow = Batch(sparse, dense, {"tags": torch.tensor([[2, 5], [-1, -1]])})
    wide = Batch(sparse, dense, {"tags": torch.tensor([[2, -1, 5, -1], [-1, -1, -1, -1]])})
    torch.testing.assert_close(embeddings(narrow), embeddings(wide))
    assert torch.equal(embeddings(wide)[1, 3:6], torch.zeros(3))
    embeddings(wide)[:, 3:6].sum().backward()
    touched = embeddings.table.grad.abs().sum(1).nonzero().flatten().tolist()
    assert touched == [embeddings.starts["tags"] + 2, embeddings.starts["tags"] + 5]


def test_row_zero_becomes_the_weighted_mean_of_trained_rows() -> None:
    """Law: row 0 is the mean of rows 1.. weighted by how often training saw them; padding counts for nothing."""
    embeddings, batch = FieldEmbeddings(SHAPE), batch_of(200)
    counts = embeddings.occurrences(batch)
    embeddings.fill_unknown(counts)
    assert counts.sum() == 3 * 200 + (batch.multi_hot["tags"] >= 0).sum()
    items = batch.sparse[:, 1].long()
    table = embeddings.table_of("item").detach()
    torch.testing.assert_close(table[0], table[items[items > 0]].mean(0))


def test_row_zero_of_a_field_that_was_never_seen_is_zero() -> None:
    """Law: a field without a trained row has the zero vector as its unknown."""
    embeddings = FieldEmbeddings(SHAPE)
    embeddings.fill_unknown(torch.zeros(embeddings.table.shape[0], dtype=torch.int64))
    assert torch.equal(embeddings.table_of("user")[0].detach(), torch.zeros(3))
