"""What a row is: fields, vocabularies, feature tables by id, and the step from rows to vectors.

Both training and the service encode with this package, so a row means the same in both.
It needs numpy and pydantic only.
"""

from features.context import encode_context, encode_domain
from features.errors import ContextError, FeatureError, InvalidValue, MalformedTensors
from features.fields import Division, Field, Normalization
from features.index import RawIndex
from features.lookup import EmbeddingLookup
from features.rows import EncodedRows
from features.tables import FeatureTable
from features.vocabulary import Vocabulary

__all__ = [
    "ContextError",
    "Division",
    "EmbeddingLookup",
    "EncodedRows",
    "FeatureError",
    "FeatureTable",
    "Field",
    "InvalidValue",
    "MalformedTensors",
    "Normalization",
    "RawIndex",
    "Vocabulary",
    "encode_context",
    "encode_domain",
]
