"""What an assay computes: every image is encoded once by every encoder, and every distance is computed once."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from medassay.core.results import to_json
from medassay.core.types import LabelledImages
from medassay.data.duplicates import hash_images
from medassay.data.modules import LabelledData
from medassay.data.phantoms import blood
from medassay.data.sources import phantom_data
from medassay.evaluation import arms
from medassay.evaluation.encoders import Encoder, EncoderName
from medassay.evaluation.protocol import ComputeContext
from medassay.metrics import authenticity, distances, frechet
from medassay.protocols.assay import measures, protocol, space
from medassay.protocols.assay.controls import make_controls, make_floor
from medassay.protocols.assay.measures import Yardstick
from medassay.protocols.assay.protocol import Assay, make_subjects
from medassay.protocols.assay.results import Row
from medassay.protocols.assay.subjects import Candidate, Real, Subject

TRAIN, VAL, SAMPLES, LARGE = 120, 48, 160, 150
ENCODERS: list[EncoderName] = ["classifier", "pixels"]


def phantoms(seed: int, train: int) -> LabelledData:
    classes = list(blood.CLASSES)
    return phantom_data("blood_phantom", "blood", classes, 3, train=train, val=VAL, test=16, phantom_seed=seed)


class Work:
    """What is encoded, and between which images distances are computed."""

    def __init__(self) -> None:
        self.encoded: dict[str, Counter[bytes]] = defaultdict(Counter)  # by encoder: how often each image was
        self.classified: Counter[bytes] = Counter()  # how often a classifier looked for an image's class
        self.roots = 0  # of covariances
        self.cells = 0  # times that cells were fitted
        self.turned: Counter[str] = Counter()  # by encoder: turned and mirrored images that were encoded
        self._turned = False  # whether these are being compared
        self._places: dict[bytes, int] = {}  # of features, those of the cells' centres included
        self._pairs: Counter[tuple[int, int]] = Counter()
        self._images: dict[str, dict[bytes, int]] = defaultdict(dict)  # by encoder: the places of images' features

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        encode, compute = Encoder.__call__, distances.compute_distances
        predict, root, fit = measures.predict, frechet._take_square_root, authenticity.Cells.__init__
        find_turned = space.find_turned_copies

        def watched_encode(encoder: Encoder, images: Tensor, progress: str = "") -> Tensor:
            if self._turned:
                self.turned[encoder.name] += len(images)
                return encode(encoder, images, progress)
            features, hashes = encode(encoder, images, progress), hash_images(images)
            self.encoded[encoder.name].update(hashes)
            self._images[encoder.name] |= zip(hashes, self._locate(features.double()), strict=True)
            return features

        def watched_compute(a: Tensor, b: Tensor) -> Tensor:
            if not self._turned:
                columns = self._locate(b)
                self._pairs.update((row, column) for row in self._locate(a) for column in columns)
            return compute(a, b)

        def watched_predict(task: Any, split: LabelledImages, device: torch.device) -> Any:
            self.classified.update(hash_images(split.images))
            return predict(task, split, device)

        def watched_root(matrix: Tensor) -> Tensor:
            self.roots += 1
            return root(matrix)

        def watched_fit(made: Any, *arguments: Any, **named: Any) -> None:
            self.cells += 1
            fit(made, *arguments, **named)

        def find_apart(*arguments: Any) -> Any:
            self._turned = True
            found = find_turned(*arguments)
            self._turned = False
            return found

        patch.setattr(space, "find_turned_copies", find_apart)
        patch.setattr(Encoder, "__call__", watched_encode)
        patch.setattr(distances, "compute_distances", watched_compute)
        patch.setattr(measures, "predict", watched_predict)
        patch.setattr(frechet, "_take_square_root", watched_root)
        patch.setattr(authenticity.Cells, "__init__", watched_fit)

    def _locate(self, features: Tensor) -> list[int]:
        return [self._places.setdefault(row.tobytes(), len(self._places)) for row in features.numpy()]

    def count_pairs(self, encoder: str, queries: LabelledImages, reference: LabelledImages) -> Counter[int]:
        """How many distances from some images to others were computed how often; that of an image to itself is left out."""
        places = self._images[encoder]
        rows, columns = ([places[value] for value in hash_images(one.images)] for one in (queries, reference))
        return Counter(self._pairs[row, column] for row in rows for column in columns if row != column)

    def count_repeated(self) -> int:
        """The number of distances computed more than once."""
        return sum(times > 1 for times in self._pairs.values())


@pytest.fixture(scope="module")
def real() -> Real:
    return Real.from_data(phantoms(0, TRAIN), "test")


@pytest.fixture(scope="module")
def candidate() -> Candidate:
    generated = phantoms(1, SAMPLES).splits
    return Candidate("phantoms", generated.train, generated.val, None, {"samples": "phantoms"})


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def untrained_classifiers_and_a_small_second_table(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(wanted: Sequence[arms.Arm], *_: Any, **__: Any) -> list[Any]:
        return [arms.build_task(arm).eval() for arm in wanted]

    monkeypatch.setattr(arms, "train_arms", build)
    monkeypatch.setattr(protocol, "LARGE", LARGE)


def assay(real: Real, candidate: Candidate, cache: Path) -> tuple[Work, Any]:
    work = Work()
    with pytest.MonkeyPatch.context() as patch:
        work.watch(patch)
        results, _ = Assay(budget="quick", encoders=ENCODERS).measure(
            real, candidate, ComputeContext(torch.device("cpu"), 0, cache)
        )
    return work, results


def test_an_assay_encodes_every_image_once_and_computes_every_distance_once(
    real: Real, candidate: Candidate, cache: Path
) -> None:
    first, results = assay(real, candidate, cache)
    copies = make_controls(real, VAL)[0]
    assert copies.members is not None
    others = real.unique[~torch.isin(torch.arange(TRAIN), copies.members)]  # training images that no control copies
    changed, (_, second_table) = (
        2 * len(copies.members),
        make_subjects(candidate, real, VAL, 5),
    )  # noisy and turned copies
    generated = second_table.images
    beyond = candidate.images[~torch.isin(torch.arange(SAMPLES), second_table.sets[0])]
    for encoder in ENCODERS:
        # Samples beyond the second table are searched for suspicious ones, in the headline's features
        searched = beyond[: len(beyond) * (encoder == ENCODERS[0])]
        assert set(first.encoded[encoder].values()) == {1}
        assert len(first.encoded[encoder]) == TRAIN + VAL + changed + LARGE + len(searched)
        assert set(first.count_pairs(encoder, generated, real.train)) == {1}
        assert set(first.count_pairs(encoder, generated, generated)) == {1}
        assert set(first.count_pairs(encoder, real.val, generated)) == {1}
        assert set(first.count_pairs(encoder, real.val, others)) == {1}
        assert set(first.count_pairs(encoder, others, real.train)) == {1}
        assert set(first.count_pairs(encoder, searched, real.train)) <= {1}
        assert set(first.count_pairs(encoder, searched, searched)) <= {0}
        # The first set of samples, the floor's and each kind of copies; the others are of the floor's images
        assert first.turned[encoder] == 7 * 5 * VAL
    assert set(first.classified.values()) == {1}
    assert first.cells == len(ENCODERS)
    assert first.roots == len(ENCODERS) * (1 + len(real.classes))
    assert results.large is not None
    # The same generator again: the controls are kept
    second, again = assay(real, candidate, cache)
    assert [row.key for row in again.rows] == [row.key for row in results.rows]
    assert text_of(again.judged) == text_of(results.judged)
    assert set(second.encoded["pixels"].values()) == {1}
    assert len(second.encoded["pixels"]) == TRAIN + VAL + LARGE
    assert second.count_repeated() == 0
    assert second.turned["pixels"] == 7 * VAL


def test_without_a_second_table_only_the_sets_are_compared_with_each_other(
    real: Real, candidate: Candidate, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "LARGE", SAMPLES + 1)
    work, results = assay(real, candidate, cache)
    assert results.large is None
    (subject,) = make_subjects(candidate, real, VAL, 5)
    assert len(subject.sets) == 3
    first, further = candidate.images[subject.sets[0]], candidate.images[torch.cat([*subject.sets[1:]])]
    others = candidate.images[~torch.isin(torch.arange(SAMPLES), torch.cat([*subject.sets]))]
    assert len(others) == SAMPLES - 3 * VAL
    assert set(work.count_pairs("pixels", first, first)) == {1}
    assert set(work.count_pairs("pixels", first, further)) == {0}
    assert not set(hash_images(others.images)) & work.encoded["pixels"].keys()


def text_of(row: Row) -> str:
    """A row with all digits; unlike numbers, two undefined ones are equal."""
    return json.dumps(to_json(row))


def test_rows_measured_together_are_those_measured_alone(real: Real, candidate: Candidate, cache: Path) -> None:
    (task,) = arms.train_arms([arms.Arm("any", real.train, real.val, len(real.classes), 0, 20)], cache)
    encoder = Encoder("pixels", "some pixels", lambda images: images[..., ::9, ::9].flatten(1), torch.device("cpu"))
    generated = make_subjects(candidate, real, VAL, 5)
    subjects = [*generated, make_floor(real, VAL), make_floor(real, VAL - 10)]

    def yardstick() -> Yardstick:
        return Yardstick(real, [encoder], task, torch.device("cpu"))

    together = [text_of(one.row) for one in yardstick().measure_rows(subjects)]
    assert together == [text_of(yardstick().measure_rows([subject])[0].row) for subject in subjects]
    pool, places = candidate.images[torch.cat(list(generated[0].sets))], torch.arange(VAL * len(generated[0].sets))
    alone = Subject("generator", "phantoms", "generator", pool, places.split(VAL))  # without the images in no set
    assert text_of(yardstick().measure_rows([alone])[0].row) == together[0]
