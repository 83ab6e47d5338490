"""KuaiRand-1K: five tabs of a short-video app as natural domains, how active a user is as the auxiliary division.

Source: Gao et al., KuaiRand (CIKM 2022). Label 1 is a click. The tabs 0, 1, 2, 4 and 6 of both standard logs, as in
Li et al., Scenario-Wise Rec (2024); rows of users or videos without features are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from features.fields import Division
from training.errors import SourceError
from training.prepared import DatasetSpec, FieldSpec, PreparedDataset, dataset_facts
from training.sources.counts import check_counts

_REMEDY = "download KuaiRand-1K from https://kuairand.com again and unpack it"
_LOGS = ("log_standard_4_08_to_4_21_1k.csv", "log_standard_4_22_to_5_08_1k.csv")
_USERS, _VIDEOS = "user_features_1k.csv", "video_features_basic_1k.csv"
_TABS = (0, 1, 2, 4, 6)
_PUBLIC = {
    "rows of tab 0": 2_407_352,
    "rows of tab 1": 7_760_237,
    "rows of tab 2": 895_385,
    "rows of tab 4": 402_366,
    "rows of tab 6": 183_403,
}
_OF_LOG = ("user_id", "video_id", "is_click", "tab")
_USER_COUNTS = ("follow_user_num", "fans_user_num", "friend_user_num", "register_days")
_OF_USER = (
    "user_active_degree",
    "is_lowactive_period",
    "is_live_streamer",
    "is_video_author",
    "follow_user_num_range",
    "fans_user_num_range",
    "friend_user_num_range",
    "register_days_range",
    *(f"onehot_feat{number}" for number in range(18)),
)
_OF_VIDEO = ("video_type", "visible_status", "server_width", "server_height")
_ACTIVE = ("full_active", "high_active", "middle_active", "low_active", "2_14_day_new", "30day_retention")

_FIELDS = (
    FieldSpec(name="user_id", kind="sparse", of="user", column="user_id", id=True),
    FieldSpec(name="video_id", kind="sparse", of="item", column="item_id", id=True),
    *(FieldSpec(name=name, kind="sparse", of="user", column=name) for name in _OF_USER),
    *(FieldSpec(name=name, kind="sparse", of="item", column=name) for name in _OF_VIDEO),
    FieldSpec(name="domain", kind="sparse", of="domain", column="domain_id"),
    *(FieldSpec(name=name, kind="dense", of="user", column=name, normalization="min_max") for name in _USER_COUNTS),
)
_DIVISIONS = (
    Division(name="tab", natural=True, of="domain", domains=tuple(f"tab-{tab}" for tab in _TABS)),
    Division(
        name="active",
        natural=False,
        of="user",
        field="user_active_degree",
        rule="value",
        domains=tuple(f"active-{degree}" for degree in _ACTIVE),
    ),
)


def kuairand_1k(source: Path, *, any_size: bool = False) -> PreparedDataset:
    """Read the logs and the features of users and videos; of the logs four columns, in blocks.

    Args:
        source: folder with the CSV files, KuaiRand-1K/data of the archive.
        any_size: accept files of other sizes than the public ones.

    Returns:
        The prepared data, in the order of the logs. The two rare degrees of activity belong to no auxiliary domain.

    Raises:
        SourceError: a file is missing or broken, or its counts are not the public ones.
    """
    logs = [source / log for log in _LOGS]
    rows = pl.concat([_columns(log, _OF_LOG, dict.fromkeys(_OF_LOG, pl.Int32)) for log in logs])
    rows = rows.filter(pl.col("tab").is_in(_TABS))
    odd = rows.filter(~pl.col("is_click").is_in([0, 1]))
    if len(odd):
        raise SourceError(source, None, f"is_click {odd['is_click'][0]} of a log is neither 0 nor 1", _REMEDY)
    texts = dict.fromkeys((*_OF_USER, *_OF_VIDEO), pl.String)
    users = _columns(source / _USERS, ("user_id", *_OF_USER, *_USER_COUNTS), {"user_id": pl.Int32, **texts})
    videos = _columns(source / _VIDEOS, ("video_id", *_OF_VIDEO), {"video_id": pl.Int32, **texts})
    rows = rows.join(users, on="user_id", how="semi", maintain_order="left")
    rows = rows.join(videos, on="video_id", how="semi", maintain_order="left")
    if not any_size:
        found = {f"rows of tab {tab}": count for tab, count in rows.group_by("tab").len().iter_rows()}
        check_counts(source, found, _PUBLIC, _REMEDY)
    interactions = rows.select(
        "user_id",
        pl.col("video_id").alias("item_id"),
        pl.format("tab-{}", "tab").alias("domain_id"),
        pl.col("is_click").cast(pl.Int8).alias("label"),
    )
    spec = DatasetSpec(name="kuairand-1k", fields=_FIELDS, divisions=_DIVISIONS, facts=dataset_facts(interactions))
    items = videos.rename({"video_id": "item_id"})
    items = items.join(interactions, on="item_id", how="semi").sort("item_id")
    return PreparedDataset(spec, interactions, users.sort("user_id"), items)


def _columns(path: Path, needed: Sequence[str], types: dict[str, type[pl.DataType]]) -> pl.DataFrame:
    if not path.exists():
        raise SourceError(path, None, "is missing", _REMEDY)
    try:
        header = pl.scan_csv(path, infer_schema=False).collect_schema().names()
        missing = [name for name in needed if name not in header]
        if missing:
            raise SourceError(path, 1, f"the header lacks {', '.join(missing)}", _REMEDY)
        known = {name: types.get(name, pl.Float64) for name in needed}
        table = pl.scan_csv(path, schema_overrides=known, infer_schema=False).select(needed)
        return table.collect(engine="streaming")
    except (OSError, pl.exceptions.PolarsError) as error:
        raise SourceError(path, None, f"cannot be read ({str(error).splitlines()[0]})", _REMEDY) from None
