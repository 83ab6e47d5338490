"""Laws of Douban: three tables are three domains, a rating above 3 the label, item ids carry their domain."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.errors import SourceError
from training.sources.douban import douban

REVIEWS = {
    "book": [("7", "3", "5"), ("2", "9", "3")],
    "music": [("7", "3", "4")],
    "movie": [("2", "3", "1.0"), ("2", "4", "4"), ("7", "4", "2")],
}
USERS = [("2", "Berlin", '"2008-03-12"'), ("5", "Rome", '"2011-01-01"'), ("2", "Bonn", '"2009-01-01"')]


def write(folder: Path) -> Path:
    for domain, rows in REVIEWS.items():
        lines = [f'"user_id"\t"{domain}_id"\t"rating"\t"comment"']
        lines += ["\t".join((*row, '"a tab\tand a\nline"')) for row in rows]
        (folder / f"{domain}reviews_cleaned.txt").write_text("\n".join(lines) + "\n")
    lines = ['"UID"\t"living_place"\t"join_time"', *("\t".join(user) for user in USERS)]
    (folder / "users_cleaned.txt").write_text("\n".join(lines) + "\n")
    return folder


def test_tables_become_domains(tmp_path: Path) -> None:
    """Law: a book and a film of the same number are two items; text with tabs and line ends is passed over."""
    prepared = douban(write(tmp_path), any_size=True)
    prepared.check()
    expected = sorted(
        (int(user), f"{domain}-{item}", domain, int(float(rating) > 3))
        for domain, rows in REVIEWS.items()
        for user, item, rating in rows
    )
    assert sorted(prepared.interactions.rows()) == expected
    assert prepared.users.rows() == [(2, "Berlin", "2008-03"), (7, None, None)]


def test_other_counts_than_the_public_ones_are_refused(tmp_path: Path) -> None:
    """Law: the message names the file, and what was found beside what is known."""
    with pytest.raises(SourceError, match=r"bookreviews_cleaned\.txt: has 2 rows instead of 227,251 and 2 users"):
        douban(write(tmp_path))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("musicreviews_cleaned.txt", None, "is missing"),
        ("musicreviews_cleaned.txt", "user_id\tmusic_id\n1\t2\n", "the header lacks one of user_id, music_id, rating"),
        ("musicreviews_cleaned.txt", "user_id\tmusic_id\trating\n1\t2\t5\n1\tx\t5\n", "review 2 is no row of numbers"),
    ],
)
def test_a_broken_table_is_refused(tmp_path: Path, file: str, content: str | None, message: str) -> None:
    """Law: the message names the file, and the review where it is one."""
    path = write(tmp_path) / file
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(SourceError, match=message):
        douban(tmp_path, any_size=True)
