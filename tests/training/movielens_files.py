"""A small set of files in the form of MovieLens-1M, invented from nothing."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

USERS = ("1::F::1::10::48067", "2::M::56::16::70072-1234", "3::M::25::0::02139", "4::F::45::7::02139")
MOVIES = (
    "1::Caf\u00e9 \u0085 of Stars (1995)::Animation|Comedy",
    "2::Second, The (1996)::Drama",
    "9::Never Rated (1997)::Horror",
)
RATINGS = ("1::1::5", "1::2::3", "2::1::4", "3::2::1", "4::2::4", "4::1::2")


def write_movielens(
    folder: Path,
    *,
    users: Sequence[str] = USERS,
    movies: Sequence[str] = MOVIES,
    ratings: Sequence[str] = RATINGS,
    form: str = "ratings.dat",
    line_end: str = "\n",
) -> Path:
    """Write users.dat, movies.dat and one form of the ratings.

    Args:
        folder: made if it is not there.
        users, movies, ratings: lines.
        form: ratings.dat, timestamps (ratings.dat with four columns), or a name of the CSV.
        line_end: of every file.
    """
    folder.mkdir(parents=True, exist_ok=True)

    def write(name: str, lines: Sequence[str]) -> None:
        content = "".join(line + line_end for line in lines).encode("latin-1")
        (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)

    write("users.dat", users)
    write("movies.dat", movies)
    if form == "timestamps":
        write("ratings.dat", [f"{line}::97830{number}" for number, line in enumerate(ratings)])
    elif form == "ratings.dat":
        write(form, ratings)
    else:
        # another order, and a column more, as the public CSV has
        lines = [f"{line.replace('::', ',')},{number % 5}" for number, line in enumerate(ratings)]
        write(form, ["user_id,movie_id,rating,fold", *reversed(lines)])
    return folder
