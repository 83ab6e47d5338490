"""Validation errors are sentences for a person."""

from __future__ import annotations

from typing import Literal

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from adapters_store.validation import explain


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    learning_rate: float = 0.1
    batch: int = 1


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    stage: Inner = Inner()
    stages: list[Inner] = []
    maybe: Inner | None = None
    mode: Literal["add", "avg"] = "add"
    needed: int

    @field_validator("needed")
    @classmethod
    def _even(cls, needed: int) -> int:
        if needed % 2:
            raise ValueError("needed must be even: give it a partner")
        return needed


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"needed": 2, "stages": [{}, {"lerning_rate": 1}]}, "stages.1.lerning_rate is no known key; did you mean"),
        ({"needed": 2, "stage": {"learning_rat": 1}}, "did you mean 'learning_rate'?"),
        ({"needed": 2, "maybe": {"bach": 1}}, "maybe.bach is no known key; did you mean 'batch'?"),
        ({"needed": 2, "mod": "add"}, "mod is no known key; did you mean 'mode'?"),
        ({"needed": 2, "zzz": 1}, "known here: maybe, mode, needed, stage, stages"),
        ({}, "needed is missing"),
        ({"needed": 3}, "needed: needed must be even: give it a partner"),
        ({"needed": 2, "mode": "max"}, "mode: input should be 'add' or 'avg', got 'max'"),
        ({"needed": "two"}, "needed: input should be a valid integer"),
    ],
)
def test_each_fault_is_one_sentence_that_names_the_key(content: dict[str, object], sentence: str) -> None:
    """Law: the key is named with its path, and a near miss suggests what was meant."""
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(content)
    assert sentence in explain(caught.value, Outer)


def test_many_faults_are_counted_not_listed() -> None:
    """Law: a message stays short whatever is wrong."""
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate({f"key{i}": "x" * 10_000 for i in range(50)})
    assert explain(caught.value, Outer).endswith("and 46 more")
    assert len(explain(caught.value, Outer)) < 1000
