"""What every engine must do. A new engine subclasses `EngineContract` and says how it is made."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from adapters_store.artifact import Adapter, decode_adapter, decode_fusion
from adapters_store.backbone import Backbone, read_bundle
from adapters_store.folding import Combination, Folded, fold_backbone
from adapters_store.verification import verify_adapter, verify_backbone
from benchmarks.forge import Run
from benchmarks.oracle_files import AdapterFile
from features.rows import EncodedRows
from service.engine import Engine, Prepared, Segment
from service.tables import FeatureTables
from tests.factory import THEMES

MODES = ("attention", "add", "avg", "single")


def probability(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sigmoid."""
    return 1.0 / (1.0 + np.exp(-logits))


@dataclass
class World:
    """A run's artifacts as the service reads them, and one engine."""

    run: Run
    backbone: Backbone
    engine: Engine

    def __post_init__(self) -> None:
        self.tables = FeatureTables(self.backbone)
        self.auxiliaries: dict[str, Adapter] = {
            domain: decode_adapter((self.run.folder / "adapters" / f"{domain}.safetensors").read_bytes())
            for domain in self.run.auxiliaries()
        }
        self.fusion = decode_fusion((self.run.folder / "fusion.safetensors").read_bytes())
        self.users = [int(user) for user in self.run.oracle.index["user"]]
        self.items = list(self.run.oracle.index["item"])

    def path_of(self, mode: str, domain: str) -> bytes:
        """The natural adapter's bytes."""
        return self.run.natural(mode)[domain].read_bytes()

    def folds(self, mode: str, domain: str) -> dict[Combination, Folded]:
        """Every combination, verified with this engine."""
        adapter = decode_adapter(self.path_of(mode, domain))
        return verify_adapter(adapter, self.backbone, self.auxiliaries, self.fusion, self.engine.logits)

    def prepared(self, mode: str, domain: str) -> dict[Combination, Prepared]:
        """Every combination, prepared."""
        return {combination: self.engine.prepare(fold) for combination, fold in self.folds(mode, domain).items()}

    def draw(self, rng: np.random.Generator, domain: str, n: int) -> tuple[int, list[str], EncodedRows]:
        """A user, items and their rows."""
        user = int(rng.choice(self.users))
        items = [str(item) for item in rng.choice(self.items, n)]
        return user, items, self.tables.encode(user, items, domain, {}).rows

    def segments(
        self, rng: np.random.Generator, mode: str, domain: str, prepared: dict[Combination, Prepared], n: int
    ) -> tuple[list[Segment], NDArray[np.float64]]:
        """One request as segments, and what the oracle says of their rows, in that order."""
        user = int(rng.choice(self.users))
        items = [str(item) for item in rng.choice(self.items, n)]
        encoded = self.tables.encode(user, items, domain, {})
        divisions = [] if mode == "single" else list(self._auxiliary_divisions())
        segments, order = [], []
        for part in self.tables.parts(encoded, divisions):
            positions = np.arange(n) if part.positions is None else part.positions
            segments.append(Segment(encoded.rows.take(positions), prepared[part.combination], self.engine))
            order.append(positions)
        adapter = AdapterFile(self.path_of(mode, domain))
        expected = self.run.oracle.score(str(user), domain, items, adapter, self.run.auxiliaries(), self.run.fusion())
        return segments, expected[np.concatenate(order)]

    def _auxiliary_divisions(self) -> tuple[str, ...]:
        return tuple(division.name for division in self.backbone.manifest.divisions if not division.natural)


class EngineContract(ABC):
    """Subclass it as `Test<Engine>` and implement `make`."""

    tolerance = 2e-6  # of a probability, against the float64 oracle
    raw_tolerance = 1e-5  # of a logit that `run` gives, against that of `logits`

    @abstractmethod
    def make(self, backbone: Backbone, rows_per_run: int) -> Engine:
        """An engine of this backbone that splits runs of more rows than that."""

    @pytest.fixture
    def world(self, random_run: Run) -> World:
        backbone = read_bundle(random_run.folder / "bundle")
        return World(random_run, backbone, self.make(backbone, 1024))

    @pytest.fixture
    def three_way(self, three_way_run: Run) -> World:
        backbone = read_bundle(three_way_run.folder / "bundle")
        return World(three_way_run, backbone, self.make(backbone, 1024))

    def test_the_backbone_bundle_is_reproduced(self, world: World) -> None:
        """The bundle's golden rows hold with this engine."""
        verify_backbone(world.backbone, world.engine.logits)

    @pytest.mark.parametrize("mode", MODES)
    def test_each_mode_equals_the_oracle_alone(self, world: World, mode: str) -> None:
        """A request of any mode and combination has the oracle's probabilities, calibration included."""
        rng = np.random.default_rng(1)
        for domain in THEMES[:2]:
            prepared = world.prepared(mode, domain)
            for _ in range(10):
                segments, expected = world.segments(rng, mode, domain, prepared, 7)
                scores = probability(np.concatenate(world.engine.run(segments)))
                np.testing.assert_allclose(scores, expected, rtol=0, atol=self.tolerance)

    def test_a_mixed_batch_equals_the_oracle(self, three_way: World) -> None:
        """Segments of all modes, domains and combinations in one batch each have their own adapter's scores."""
        rng = np.random.default_rng(2)
        segments, expected = [], []
        for mode in MODES:
            for domain in THEMES:
                own, scores = three_way.segments(rng, mode, domain, three_way.prepared(mode, domain), 9)
                segments += own
                expected.append(scores)
        scores = probability(np.concatenate(three_way.engine.run(segments)))
        np.testing.assert_allclose(scores, np.concatenate(expected), rtol=0, atol=self.tolerance)

    def test_results_come_in_the_order_of_the_segments(self, world: World) -> None:
        """Segments that share a prepared combination keep their own places and sizes."""
        rng = np.random.default_rng(3)
        one, other = (next(iter(world.prepared("attention", domain).values())) for domain in THEMES[:2])
        segments = [
            Segment(world.draw(rng, THEMES[0], n)[2], prepared, world.engine)
            for n, prepared in [(3, one), (2, other), (5, one), (1, other), (4, one)]
        ]
        together = world.engine.run(segments)
        assert [len(part) for part in together] == [3, 2, 5, 1, 4]
        for segment, part in zip(segments, together, strict=True):
            np.testing.assert_allclose(part, world.engine.run([segment])[0], rtol=0, atol=1e-5)

    def test_long_segments_are_split_without_a_trace(self, world: World) -> None:
        """More rows than one run takes give the same logits as one run for all."""
        rng = np.random.default_rng(4)
        small = World(world.run, world.backbone, self.make(world.backbone, 8))
        rows = world.draw(rng, THEMES[0], 50)[2]
        for prepared_by, fold in ((world, fold_backbone(world.backbone)), (small, fold_backbone(world.backbone))):
            prepared = prepared_by.engine.prepare(fold)
            logits = prepared_by.engine.run([Segment(rows, prepared, prepared_by.engine)])[0]
            np.testing.assert_allclose(logits, world.engine.logits(rows, fold), rtol=0, atol=self.raw_tolerance)

    def test_calibration_is_applied_by_run_and_not_by_logits(self, world: World) -> None:
        """run returns slope * logit + intercept; logits, which verification compares, the logit itself."""
        rows = world.draw(np.random.default_rng(5), THEMES[0], 6)[2]
        fold = replace(fold_backbone(world.backbone), slope=2.0, intercept=-3.0)
        raw = world.engine.logits(rows, fold)
        (calibrated,) = world.engine.run([Segment(rows, world.engine.prepare(fold), world.engine)])
        assert calibrated.dtype == np.float64
        np.testing.assert_allclose(calibrated, 2.0 * raw - 3.0, rtol=0, atol=2 * self.raw_tolerance)

    def test_a_non_finite_logit_is_returned_as_such(self, world: World) -> None:
        """The engine hides nothing: who scores must see that an adapter overflows, and only that segment does."""
        rows = world.draw(np.random.default_rng(6), THEMES[0], 4)[2]
        fold = fold_backbone(world.backbone)
        name, module = next(iter(fold.modules.items()))
        broken = replace(module, norm_shift=np.full_like(module.norm_shift, np.inf))
        bad = world.engine.prepare(replace(fold, modules={**fold.modules, name: broken}))
        good = world.engine.prepare(fold)
        first, second = world.engine.run([Segment(rows, bad, world.engine), Segment(rows, good, world.engine)])
        assert not np.isfinite(first).any()
        assert np.isfinite(second).all()

    def test_prepared_size_is_that_of_its_arrays(self, world: World) -> None:
        """nbytes covers the fold, so that memory can be bounded."""
        for fold in world.folds("attention", THEMES[0]).values():
            assert world.engine.prepare(fold).nbytes >= fold.nbytes * 0.5

    def test_verification_beside_scoring_disturbs_neither(self, world: World) -> None:
        """The loader thread calls logits and prepare while the engine thread runs: both get their own numbers."""
        rng = np.random.default_rng(7)
        prepared = world.prepared("attention", THEMES[0])
        segments, expected = world.segments(rng, "attention", THEMES[0], prepared, 20)
        failures: list[BaseException] = []

        def verify_often() -> None:
            try:
                for _ in range(10):
                    world.folds("attention", THEMES[1])
            except BaseException as error:
                failures.append(error)

        beside = threading.Thread(target=verify_often)
        beside.start()
        while beside.is_alive():
            scores = probability(np.concatenate(world.engine.run(segments)))
            np.testing.assert_allclose(scores, expected, rtol=0, atol=self.tolerance)
        beside.join()
        assert failures == []
