"""Laws of a worker by itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tests.training.cluster.tasks import plain, task_of
from training.cluster.client import DirectLink
from training.cluster.partitions import Partition, PartitionFolder
from training.cluster.parts import PartFolder
from training.cluster.placement import Placement
from training.cluster.worker import Worker, WorkerPlace
from training.dataset import EncodedDataset, Split


@dataclass(frozen=True)
class Listed(PartitionFolder):
    """Remembers what is read."""

    asked: list[tuple[int, tuple[str, ...]]] = field(default_factory=list)

    def read(self, domain: int, parts: tuple[str, ...] = ()) -> Partition:
        self.asked.append((domain, parts))
        return super().read(domain, parts)


def test_a_worker_reads_what_it_trains_and_judges_on(rows: tuple[EncodedDataset, Split], tmp_path: Path) -> None:
    """Law: of its own domains a worker holds training and `stop` rows; `gate` and test rows stay where they are."""
    task = task_of(*rows)
    setting = task.setting
    shape = setting.structure.embeddings.shape
    folder = Listed(tmp_path / "rows", tuple((f.name, f.kind) for f in shape.fields), setting.domains.names)
    folder.write(task.dataset, setting.domains, {})
    Worker(
        WorkerPlace(
            index=0,
            owned=(0, 2),
            names=setting.domains.names,
            trained=setting.domains.trained,
            config=setting.config,
            shape=shape,
            structure_of=plain,
            stream=setting.stream,
            partitions=folder,
            parts=PartFolder(tmp_path / "parts"),
            placement=Placement(1, {}),
        ),
        DirectLink([]),
    )
    assert folder.asked == [(0, ("train", "stop")), (2, ("train", "stop"))]
