"""A labelling run before any work: everything that can be wrong is loaded and looked at, and the plan follows."""

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from jobs.labelling.layout import Layout, default_images_per_item
from jobs.labelling.specs import CaptionerSpec, RunSpec, SubjectSpec
from jobs.storage import redact, storage_for
from jobs.storage.networks import load_encoder
from mami_core import contracts
from mami_core.errors import ConfigError
from mami_core.images import list_images, source_fingerprint
from mami_core.pipeline import LabelConfig
from mami_core.subjects import Subject, list_layers, match_layers

logger = logging.getLogger(__name__)

_TABLES = (
    contracts.IMAGES,
    contracts.EXEMPLARS,
    contracts.features_schema(1),
    contracts.REGIONS,
    contracts.LABELS,
    contracts.DROPPED,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A job whose every input was looked at, before any work starts."""

    config: dict[str, Any]
    """What makes the run what it is: the plan's content."""
    spec: RunSpec
    """As far as it is known before there is a plan."""
    images: pa.Table


def prepare(
    subjects: Sequence[SubjectSpec],
    images: str,
    captioner: CaptionerSpec,
    config: LabelConfig,
    *,
    images_per_item: int | None,
    neurons_per_item: int,
) -> Prepared:
    """Load what can be wrong and say so now: subjects, layers, captioner, images.

    Raises:
        MamiError: naming what is wrong and what was expected.
    """
    if neurons_per_item < 1 or (images_per_item is not None and images_per_item < 1):
        raise ConfigError("images_per_item and neurons_per_item must be at least 1.")
    trained = captioner.load()
    load_encoder(trained)
    identities = {spec.name: _identity(spec.load(), spec.layers) for spec in subjects}
    logger.info("Listing the images in %s", redact(images))
    source = storage_for(images if "://" in images else ".")
    listed = list_images(images, source)
    plan = {
        "subjects": identities,
        "images": {"fingerprint": source_fingerprint(images, source), "count": listed.num_rows},
        "captioner": {"id": trained.id, "encoder": trained.encoder_id},
        "search": dataclasses.asdict(config.search),
        "decode": {name: value for name, value in dataclasses.asdict(config.decode).items() if name != "batch_size"},
        "images_per_item": images_per_item
        or default_images_per_item(listed.num_rows, config.search.batch_size, len(subjects)),
        "neurons_per_item": neurons_per_item,
        "tables": dict(map(contracts.identity, _TABLES)),
    }
    spec = RunSpec(
        run="",
        layout=Layout.of(plan),
        subjects=tuple(subjects),
        weights={name: subject["weights"] for name, subject in identities.items()},
        captioner=captioner,
        captioner_id=trained.id,
        config=config,
    )
    return Prepared(config=plan, spec=spec, images=listed)


def _identity(subject: Subject, layers: Sequence[str]) -> dict[str, Any]:
    """What of a subject changes the labels, and the layers to label, each with its number of units."""
    num_units = {info.name: info.num_units for info in list_layers(subject)}
    return {
        "weights": subject.weights_id,
        "input_size": subject.input_size,
        "crop": subject.crop,
        "mean": list(subject.mean),
        "std": list(subject.std),
        "layers": {layer: num_units[layer] for layer in match_layers(subject, layers)},
    }
