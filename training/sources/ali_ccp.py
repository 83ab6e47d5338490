"""Ali-CCP: the scenario (field 301) is the natural domain, the user's gender the auxiliary division, a click the label.

Source: Ma et al., Entire space multi-task model (SIGIR 2018); the preparation follows Li et al., Scenario-Wise Rec
(2024): 23 sparse and 8 dense fields, of a field with several values the last one, values that fewer than 10 training
rows have out of vocabulary, rows with a purchase but no click dropped, and of the test file a random half to validate.
A purchase is never an input. departs from it: ids of users and items are kept however rare they are, because they name
the rows of the feature tables.

The files have 85 million lines; they are read in blocks and never held as a whole.
"""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from features.fields import Division
from training.errors import SourceError
from training.prepared import PARTS, SPLIT, DatasetSpec, FieldSpec, domain_facts, install
from training.sources.blocks import read_blocks
from training.sources.counts import ANY_SIZE

_REMEDY = "download data set 408 from https://tianchi.aliyun.com again and unpack it"
_USER, _ITEM, _SCENARIO, _GENDER = "101", "205", "301", "124"
_OF_USER = ("121", "122", _GENDER, "125", "126", "127", "128", "129")
_OF_ITEM = ("206", "207", "210", "216")
_HISTORY = ("109_14", "110_14", "127_14", "150_14")
_CROSSED = ("508", "509", "702", "853")
_RARE = 10
_PUBLIC = (639_897, 32_236_951, 52_439_671)
_HALVES_STREAM = 408

_FIELDS = (
    FieldSpec(name="user_id", kind="sparse", of="user", column="user_id", id=True),
    FieldSpec(name="item_id", kind="sparse", of="item", column="item_id", id=True),
    *(FieldSpec(name=name, kind="sparse", of="user", column=name) for name in _OF_USER),
    *(FieldSpec(name=name, kind="sparse", of="item", column=name) for name in _OF_ITEM),
    *(FieldSpec(name=name, kind="sparse", of="context", column=name) for name in (*_HISTORY, *_CROSSED)),
    FieldSpec(name="domain", kind="sparse", of="domain", column="domain_id"),
    *(
        FieldSpec(name=f"D{name}", kind="dense", of="context", column=f"D{name}", normalization="min_max")
        for name in (*_HISTORY, *_CROSSED)
    ),
)


def ali_ccp(source: Path, out: Path, *, seed: int = 0, any_size: bool = False) -> DatasetSpec:
    """Write the prepared folder.

    Args:
        source: folder with {sample_skeleton,common_features}_{train,test}.csv.
        out: the prepared folder; nothing is there until all is.
        seed: decides which half of the test file validates.
        any_size: accept files of other sizes than the public ones.

    Returns:
        What spec.json holds.

    Raises:
        SourceError: a file is missing or broken, or the counts are not the public ones; it names file and line.
        PreparedError: the folder cannot be written.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as folder:
        work = Path(folder)
        users = pl.concat([_write_part(source, part, work) for part in ("train", "test")])
        rows = pl.scan_parquet([work / "train.part", work / "test.part"])
        _write_entities(users, rows, pl.scan_parquet(work / "train.part"), work)
        _write_interactions(work, seed)
        spec = _spec(work)
        if not any_size:
            _check_counts(spec, source)
        install(work, spec, out)
    return spec


def _write_part(source: Path, part: str, work: Path) -> pl.DataFrame:
    """Join the lines of one file with what is common to several; the users of the common lines come back."""
    common_path, path = source / f"common_features_{part}.csv", source / f"sample_skeleton_{part}.csv"
    blocks = read_blocks(common_path, ("common", "count", "features"), _REMEDY)
    common = pl.concat([block.select("common", *_common_columns()) for block in blocks])
    common = common.unique("common", keep="first", maintain_order=True).with_columns(found=True)
    shared = common.drop(_OF_USER)
    with contextlib.ExitStack() as stack:
        writer = None
        for block in read_blocks(path, ("sample", "click", "purchase", "common", "count", "features"), _REMEDY):
            bought_unclicked = (pl.col("click") == "0") & (pl.col("purchase") == "1")
            rows = (
                block.filter(~bought_unclicked.fill_null(False))
                .select("line", "click", "common", *_own_columns())
                .join(shared, on="common", how="left", maintain_order="left")
            )
            _check_lines(rows, path)
            table = rows.select(
                pl.col("click").cast(pl.Int8), pl.exclude("line", "click", "common", "found")
            ).to_arrow()
            writer = writer or stack.enter_context(pq.ParquetWriter(work / f"{part}.part", table.schema))
            writer.write_table(table)
    return common.select("user_id", *_OF_USER)


def _common_columns() -> list[pl.Expr]:
    user = _feature(_USER).fill_null(0).alias("user_id")
    return [user, *map(_feature, (*_OF_USER, *_HISTORY)), *map(_weight, _HISTORY)]


def _own_columns() -> list[pl.Expr]:
    item = _feature(_ITEM).fill_null(0).alias("item_id")
    return [item, *map(_feature, (_SCENARIO, *_OF_ITEM, *_CROSSED)), *map(_weight, _CROSSED)]


def _feature(field: str) -> pl.Expr:
    """The last value of a field in a list of <field>02<value>03<weight> (hexadecimal separators), joined by 01."""
    return _behind(field).str.splitn("\x03", 2).struct.field("field_0").cast(pl.Int32, strict=False).alias(field)


def _weight(field: str) -> pl.Expr:
    entry = _behind(field).str.splitn("\x03", 2).struct.field("field_1")
    return entry.str.splitn("\x01", 2).struct.field("field_0").cast(pl.Float32, strict=False).alias(f"D{field}")


def _behind(field: str) -> pl.Expr:
    """What stands behind the last mention of a field; cutting at a literal is faster than any pattern for it."""
    cut = pl.concat_str(pl.lit("\x01"), pl.col("features")).str.split(f"\x01{field}\x02")
    return pl.when(cut.list.len() > 1).then(cut.list.last())


def _check_lines(rows: pl.DataFrame, path: Path) -> None:
    faults = {
        "click is neither 0 nor 1": ~pl.col("click").is_in(["0", "1"]),
        "its common features are not in the other file": pl.col("found").is_null(),
        f"has no scenario (field {_SCENARIO})": pl.col(_SCENARIO).is_null(),
    }
    for fault, wrong in faults.items():
        found = rows.filter(wrong.fill_null(True))
        if len(found):
            raise SourceError(path, int(found["line"][0]), fault, _REMEDY)


def _write_entities(users: pl.DataFrame, rows: pl.LazyFrame, train: pl.LazyFrame, work: Path) -> None:
    shown = rows.select("user_id").unique().collect(engine="streaming")
    users = users.unique("user_id", keep="first", maintain_order=True).join(shown, on="user_id", how="semi")
    items = rows.group_by("item_id").agg(pl.col(name).drop_nulls().min() for name in _OF_ITEM)
    for key, table, columns in (
        ("user_id", users, _OF_USER),
        ("item_id", items.collect(engine="streaming"), _OF_ITEM),
    ):
        seen = train.group_by(key).agg(pl.len().alias("rows")).collect(engine="streaming")
        counted = table.join(seen, on=key, how="left", maintain_order="left")
        kept = [_frequent(counted.group_by(name).agg(pl.col("rows").sum()), name) for name in columns]
        table.with_columns(kept).sort(key).write_parquet(work / f"{key.removesuffix('_id')}s.parquet")


def _frequent(counts: pl.DataFrame, name: str) -> pl.Expr:
    """The column with values of fewer than 10 training rows empty."""
    values = counts.filter(pl.col("rows") >= _RARE)[name].drop_nulls()
    return pl.when(pl.col(name).is_in(values.implode())).then(pl.col(name)).alias(name)


def _write_interactions(work: Path, seed: int) -> None:
    """Both parts in one table; rare values of context fields are empty, a half of the test file validates."""
    train, test = pl.scan_parquet(work / "train.part"), pl.scan_parquet(work / "test.part")
    sparse = (*_HISTORY, *_CROSSED)
    kept = [
        _frequent(train.group_by(name).agg(pl.len().alias("rows")).collect(engine="streaming"), name) for name in sparse
    ]
    columns = [
        pl.col("user_id"),
        pl.col("item_id"),
        pl.format("scenario-{}", _SCENARIO).alias("domain_id"),
        pl.col("click").alias("label"),
        *kept,
        *(pl.col(f"D{name}") for name in sparse),
    ]
    count = test.select(pl.len()).collect().item()
    validates = np.random.default_rng([seed, _HALVES_STREAM]).permutation(count) < count // 2
    half = pl.Series(SPLIT, np.where(validates, 1, 2).astype(np.int8))
    parts = (
        test.select(columns)
        .with_row_index("row")
        .with_columns(
            pl.col("row")
            .map_batches(lambda row: half.gather(row), return_dtype=pl.Int8, is_elementwise=True)
            .alias(SPLIT)
        )
    )
    whole = pl.concat(
        [train.select(columns).with_columns(pl.lit(0, pl.Int8).alias(SPLIT)), parts.drop("row")]
    ).with_columns(pl.col(SPLIT).replace_strict(dict(enumerate(PARTS)), return_dtype=pl.String))
    whole.sink_parquet(work / "interactions.parquet")


def _spec(work: Path) -> DatasetSpec:
    rows = pl.scan_parquet(work / "interactions.parquet")
    users, items = pl.read_parquet(work / "users.parquet"), pl.read_parquet(work / "items.parquet")
    domains = domain_facts(rows)
    parts = dict(rows.group_by(SPLIT).len().sort(SPLIT).collect(engine="streaming").iter_rows())
    label, count = rows.select(pl.col("label").mean(), pl.len()).collect(engine="streaming").row(0)
    genders = users[_GENDER].drop_nulls().unique().sort().to_list()
    divisions = [
        Division(name="scenario", natural=True, of="domain", domains=tuple(one["domain_id"] for one in domains))
    ]
    if genders:
        ids = tuple(f"gender-{gender}" for gender in genders)
        divisions.append(Division(name="gender", natural=False, of="user", field=_GENDER, rule="value", domains=ids))
    facts = {
        "rows": count,
        "users": len(users),
        "items": len(items),
        "positive": label,
        "parts": parts,
        "domains": domains,
        "source": "https://tianchi.aliyun.com/dataset/408",
    }
    return DatasetSpec(name="ali-ccp", fields=_FIELDS, divisions=tuple(divisions), facts=facts)


def _check_counts(spec: DatasetSpec, source: Path) -> None:
    found = tuple(sorted(domain["rows"] for domain in spec.facts["domains"]))
    if found != _PUBLIC:
        shown, known = (", ".join(f"{count:,}" for count in counts) for counts in (found, _PUBLIC))
        raise SourceError(
            source, None, f"gives scenarios of {shown} rows instead of {known}", f"{_REMEDY}, or {ANY_SIZE}"
        )
