"""A labelling run before any work: everything that can be wrong is loaded and looked at, and the plan follows."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from jobs.labelling.layout import Layout, default_images_per_item
from jobs.labelling.specs import ENCODER, CaptionerSpec, RunSpec, ScorerSpec, SubjectSpec
from jobs.storage import redact, storage_for
from jobs.storage.networks import load_encoder
from mami_core import contracts
from mami_core.captions.decode import check_networks
from mami_core.errors import ConfigError, SubjectError
from mami_core.exemplars.pace import cost, seconds_an_image
from mami_core.exemplars.region import REGIONS_VERSION
from mami_core.images import ImageSource, open_source
from mami_core.images.held_out import share_of
from mami_core.images.latents import fingerprint_of, images_of_latents, read_latents
from mami_core.judging import TrustConfig
from mami_core.learning.checkpoint import Trained
from mami_core.metrics.trust import FEWEST_IMAGES
from mami_core.pipeline import LabelConfig
from mami_core.subjects import LayerInfo, Subject, Survey, describe_layers, match_layers, remembering
from mami_core.subjects.finite import require_finite
from mami_core.subjects.measure import operations_by_layer
from mami_core.subjects.said import inventory

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
    notes: tuple[str, ...]
    """What people should know of the images: what was passed over, by kind."""
    maps: frozenset[tuple[str, str]]
    """The layers, each with its subject's name, whose units have maps and so regions smaller than the image."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """What an image takes one core of this machine, by subject; about."""
    inventory: str = ""
    """What is labelled of each subject, and what is left out and why, in words."""


def prepare(
    subjects: Sequence[SubjectSpec],
    images: str,
    captioner: CaptionerSpec,
    trained: Trained,
    config: LabelConfig,
    *,
    scorer: ScorerSpec | None,
    image_column: str | None = None,
    images_per_item: int | None,
    neurons_per_item: int,
) -> Prepared:
    """Load what can be wrong and say so now: subjects, layers, encoder, images. `trained` is what `captioner` names.

    Raises:
        MamiError: naming what is wrong and what was expected.
    """
    if neurons_per_item < 1 or (images_per_item is not None and images_per_item < 1):
        raise ConfigError("images_per_item and neurons_per_item must be at least 1.")
    check_networks(trained.captioner, trained.language_model, config.decode)
    surveys: dict[str, dict[str, Survey]] = {name: {} for name in (ENCODER, *(spec.id for spec in subjects))}
    with remembering(surveys[ENCODER]):
        encoder = load_encoder(trained).drawing(config.regions)
    looked_at = {}
    for subject in subjects:
        with remembering(surveys[subject.id]):
            looked_at[subject.id] = _look_at(_loaded(subject), subject)
    identities = {name: looked.identity for name, looked in looked_at.items()}
    generators = [name for name, looked in looked_at.items() if looked.latent_shape]
    if generators and len(subjects) > 1:
        raise ConfigError(f"{generators[0]} makes its images itself, so it is labelled in a run of its own.")
    logger.info("Listing the images in %s", redact(images))
    if generators:
        source = _of_latents(images, looked_at[generators[0]].latent_shape)
    else:
        source = open_source(images, storage_for(images if "://" in images else "."), image_column=image_column)
    for note in source.notes:
        logger.warning("%s: %s", redact(images), note)
    count = source.images.num_rows
    if config.search.k > count:
        logger.warning("%d exemplars of each unit are asked for, and there are %d images", config.search.k, count)
    trust = _capped(config.trust, count)
    config = dataclasses.replace(config, trust=trust)
    plan = {
        "subjects": identities,
        "images": {
            "fingerprint": source.fingerprint,
            "names": source.names,
            "count": count,
            **({"latents": True} if generators else {}),
        },
        "captioner": {"id": trained.id, "encoder": encoder.id},
        "search": dataclasses.asdict(config.search),
        "regions": REGIONS_VERSION,
        "decode": config.decode.identity(),
        "trust": trust and scorer and {"scorer": scorer.known_as, **dataclasses.asdict(trust)},
        "precision": config.precision,
        "decode_on": config.decode_on,
        "images_per_item": images_per_item or default_images_per_item(count, config.search.batch_size, len(subjects)),
        "neurons_per_item": neurons_per_item,
        "tables": dict(map(contracts.identity, _TABLES)),
    }
    layout = Layout.of(plan)
    spec = RunSpec(
        run="",
        layout=layout,
        subjects=tuple(subjects),
        weights={name: subject["weights"] for name, subject in identities.items()},
        captioner=captioner,
        captioner_id=trained.id,
        config=config,
        scorer=scorer,
        latents=images if generators else "",
        surveys=surveys,
    )
    return Prepared(
        config=plan,
        spec=spec,
        images=_made_images(layout) if generators else source.images,
        notes=source.notes,
        maps=frozenset().union(*(looked.maps for looked in looked_at.values())),
        seconds={name: looked.seconds for name, looked in looked_at.items()},
        inventory="\n".join(looked.said for looked in looked_at.values()),
    )


def _of_latents(where: str, shape: tuple[int, ...]) -> ImageSource:
    """Latents as a source of images, which do not exist yet."""
    latents = read_latents(where, storage_for("."), shape)
    table = images_of_latents([("", len(latents))])
    identity = fingerprint_of(latents)
    return ImageSource(images=table, fingerprint=identity, names=identity, notes=())


def _made_images(layout: Layout) -> pa.Table:
    """Where a generator's images will be, below the run's folder."""
    return images_of_latents(
        [(layout.generated_key(chunk), end - first) for chunk, (first, end) in enumerate(layout.chunks())]
    )


def _capped(trust: TrustConfig | None, num_images: int) -> TrustConfig | None:
    """With no more held-out images than it takes to judge."""
    if trust is None:
        return None
    trust = dataclasses.replace(trust, held_out=share_of(num_images, wanted=trust.held_out))
    if num_images * trust.held_out < 2 * FEWEST_IMAGES:
        logger.warning(
            "About %d of the %d images are held out to judge the captions: too few to say much.",
            num_images * trust.held_out,
            num_images,
        )
    return trust


def _loaded(spec: SubjectSpec) -> Subject:
    """The subject, which must be the same each time it is loaded.

    Raises:
        SubjectError: it cannot be had, or a factory draws other weights each time.
    """
    subject = spec.load()
    if spec.name.startswith("python:") and (again := spec.load().weights_id) != subject.weights_id:
        raise SubjectError(
            f"'{spec.name}' has other weights each time it is made ({subject.weights_id}, then {again}), and every "
            "worker makes it anew. Seed it in the factory (torch.manual_seed), or give --weights FILE or random:SEED."
        )
    return subject


@dataclass(frozen=True, slots=True)
class _Looked:
    """What is known of a subject once it was looked at."""

    identity: dict[str, Any]
    """What of it changes the labels, its layers and their numbers of units."""
    said: str
    """That in words."""
    maps: set[tuple[str, str]]
    """The layers that give maps, with the subject's name."""
    latent_shape: tuple[int, ...]
    seconds: float
    """What an image takes one core of this machine."""


def _look_at(subject: Subject, spec: SubjectSpec) -> _Looked:
    chosen = match_layers(subject, spec.layers, ends=spec.ends)
    said = inventory(subject, chosen, spec.layers)
    for line in said.splitlines():
        logger.info("%s", line)
    infos = describe_layers(subject, chosen)
    identity = {
        "weights": subject.weights_id,
        "input_size": subject.input_size,
        **({"input_shape": list(subject.input_shape[1:])} if subject.input_height else {}),
        **({"interpolation": subject.interpolation} if subject.interpolation != "bilinear" else {}),
        "crop": subject.crop,
        "mean": list(subject.mean),
        "std": list(subject.std),
        "layers": {info.name: info.num_units for info in infos},
        **({"first_units": firsts} if (firsts := _first_units(infos)) else {}),
    }
    maps = {(spec.id, info.name) for info in infos if info.map_size is not None}
    require_finite(subject, chosen)
    seconds = seconds_an_image(subject, chosen)
    operations = operations_by_layer(subject).get("", 0)
    logger.info("  %s", cost(operations, sum(info.num_units for info in infos), seconds))
    return _Looked(identity, said, maps, subject.latent_shape, seconds)


def _first_units(infos: Sequence[LayerInfo]) -> dict[str, int]:
    return {info.name: info.first_unit for info in infos if info.first_unit}


def explain(there: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, str]:
    """What to say of a setting that differs between two plans, where its values say nothing to people."""
    said = {"regions": "another version of this project began it, and drew regions otherwise"}
    before, now = there.get("images", {}), here["images"]
    if before.get("names") == now["names"] and before.get("fingerprint") != now["fingerprint"]:
        return said | {
            "images.fingerprint": "the images have the same names and sizes as there, but other times or versions. If "
            "they are a copy, copy them with their times (cp -a, rsync -a), or label into another folder"
        }
    return said | {"images.fingerprint": "other images than there", "images.names": ""}
