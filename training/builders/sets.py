"""The benchmark sets by name."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from training.builders.amazon import AMAZON_6, AMAZON_13, amazon
from training.builders.archives import is_archive, read_archive
from training.builders.assembly import BuildOptions
from training.builders.epinions_mdr import epinions_mdr
from training.builders.published import check_counts
from training.builders.taobao import taobao
from training.errors import SourceError
from training.prepared import PreparedDataset
from training.progress import Meter


class SetName(StrEnum):
    """What can be built."""

    AMAZON_6 = "amazon-6"
    AMAZON_13 = "amazon-13"
    TAOBAO_10 = "taobao-10"
    TAOBAO_20 = "taobao-20"
    TAOBAO_30 = "taobao-30"
    EPINIONS_MDR = "epinions-mdr"


_CATEGORIES = {SetName.AMAZON_6: AMAZON_6, SetName.AMAZON_13: AMAZON_13}
_THEMES = {SetName.TAOBAO_10: 10, SetName.TAOBAO_20: 20, SetName.TAOBAO_30: 30}


def build_set(name: SetName, source: Path, options: BuildOptions, meter: Meter) -> PreparedDataset:
    """Build a set from its public files, or read it from the authors' prepared archive.

    Args:
        name: which set.
        source: folder with the files, or an archive; which of the two is seen from what is there.
        options: of the build; an archive brings its negatives and its split, so seed and processes do not matter.
        meter: where progress goes.

    Returns:
        Prepared data with its split.

    Raises:
        SourceError: a file is missing or broken, has no vectors where they are asked for, or the counts are not the
            published ones; it says what to do.
        TrainingError: a process died.
    """
    if options.vectors and (name not in _THEMES or is_archive(source)):
        remedy = "build without vectors; Taobao's public files have some"
        raise SourceError(source, None, f"brings no vectors for {name}", remedy)
    prepared = _built(name, source, options, meter)
    if not options.any_size:
        check_counts(name, prepared, source)
    return prepared


def _built(name: SetName, source: Path, options: BuildOptions, meter: Meter) -> PreparedDataset:
    if name is SetName.EPINIONS_MDR:
        return epinions_mdr(source, options, meter)
    if is_archive(source):
        meter.say("reading the authors' prepared set: its negatives and its split are taken as they are")
        domains = len(_CATEGORIES[name]) if name in _CATEGORIES else _THEMES[name]
        return read_archive(name, "category" if name in _CATEGORIES else "theme", domains, source, meter)
    if name in _CATEGORIES:
        return amazon(name, _CATEGORIES[name], source, options, meter)
    return taobao(name, _THEMES[name], source, options, meter)
