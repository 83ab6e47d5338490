"""Laws of KuaiRand-1K: five tabs are five domains, a click the label; other tabs and unknown users and videos go."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.dataset import encode, split_of
from training.errors import SourceError
from training.sources.kuairand import kuairand_1k

LOGS = {
    "log_standard_4_08_to_4_21_1k.csv": [
        "0,10,20220408,1,1",
        "1,11,20220408,0,0",
        "1,10,20220409,1,5",
        "9,10,20220409,1,1",
    ],
    "log_standard_4_22_to_5_08_1k.csv": ["0,12,20220422,0,6", "1,99,20220422,1,2", "0,11,20220423,1,4"],
}
KEPT = [(0, 10, "tab-1", 1), (1, 11, "tab-0", 0), (0, 12, "tab-6", 0), (0, 11, "tab-4", 1)]


def write(folder: Path) -> Path:
    for file, lines in LOGS.items():
        (folder / file).write_text("\n".join(["user_id,video_id,date,is_click,tab", *lines]) + "\n")
    ranges = '0,0,1,500+,0,"[1,5)",730+'
    features = ",".join(f"onehot_feat{number}" for number in range(18))
    header = (
        "user_id,user_active_degree,is_lowactive_period,is_live_streamer,is_video_author,follow_user_num_range,"
        f"fans_user_num_range,friend_user_num_range,register_days_range,{features},follow_user_num,fans_user_num,"
        "friend_user_num,register_days"
    )
    lines = [
        f"{user},{degree},{ranges},{'3,' * 17},{user * 5},0,1,900"
        for user, degree in enumerate(["full_active", "UNKNOWN"])
    ]
    (folder / "user_features_1k.csv").write_text("\n".join([header, *lines]) + "\n")
    lines = [f"{video},4,NORMAL,2022-01-01,,720,1280" for video in (10, 11, 12, 13)]
    header = "video_id,author_id,video_type,upload_dt,visible_status,server_width,server_height"
    (folder / "video_features_basic_1k.csv").write_text("\n".join([header, *lines]) + "\n")
    return folder


def test_logs_become_rows(tmp_path: Path) -> None:
    """Law: both logs in their order, five tabs, users and videos with features; an empty feature stays empty."""
    prepared = kuairand_1k(write(tmp_path), any_size=True)
    prepared.check()
    assert prepared.interactions.rows() == KEPT
    assert prepared.items["item_id"].to_list() == [10, 11, 12]
    assert prepared.items["visible_status"].to_list() == [None] * 3
    dataset = encode(prepared, split_of(prepared, 0).train, 4)
    assert dataset.division["active"].tolist() == [0, -1, 0, 0]


def test_other_counts_than_the_public_ones_are_refused(tmp_path: Path) -> None:
    """Law: the message says which tabs have other rows than the public files."""
    with pytest.raises(SourceError, match=r"has 1 rows of tab 0 instead of 2,407,352 and 1 rows of tab 1 "):
        kuairand_1k(write(tmp_path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is missing"),
        ("user_id,video_id,tab\n0,10,1\n", "line 1: the header lacks is_click"),
        ("user_id,video_id,is_click,tab\n0,x,1,1\n", "cannot be read"),
        ("user_id,video_id,is_click,tab\n0,10,7,1\n", "is_click 7 of a log is neither 0 nor 1"),
    ],
)
def test_a_broken_log_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    """Law: the message names what is wrong."""
    path = write(tmp_path) / "log_standard_4_22_to_5_08_1k.csv"
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(SourceError, match=message):
        kuairand_1k(tmp_path, any_size=True)
