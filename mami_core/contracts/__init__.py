"""The tables that pass between stages, and the only place where their columns are named.

A table is an Arrow schema whose metadata carries its name and version, beside a frozen dataclass that is one row of
it. Writers cast to the schema, readers refuse another version: a half-finished run of an older version is never mixed
with a newer one.

::

    images       where the bytes of each image are; those that a generator made
    exemplars    the images that drive each neuron, their features and regions
    labels       what a run says of each neuron, and what it dropped
    evaluation   what people say of neurons, and what captions are worth
    arrow        what all tables have in common
"""

from mami_core.contracts.arrow import (
    check,
    from_parquet,
    from_rows,
    identity,
    open_parquet,
    to_parquet,
)
from mami_core.contracts.evaluation import (
    DESCRIPTIONS,
    MEASURES,
    SCORES,
    DescriptionsRow,
    MeasuresRow,
    ScoresRow,
)
from mami_core.contracts.exemplars import (
    EXEMPLARS,
    REGION_SIDE,
    REGIONS,
    ExemplarsRow,
    FeaturesRow,
    RegionsRow,
    features_schema,
)
from mami_core.contracts.images import (
    GENERATED,
    IMAGES,
    GeneratedRow,
    ImageRow,
)
from mami_core.contracts.labels import (
    DROPPED,
    LABELS,
    LABELS_BEFORE,
    LOWEST,
    Beam,
    DroppedRow,
    LabelsRow,
    read_labels,
)

__all__ = [
    "DESCRIPTIONS",
    "DROPPED",
    "EXEMPLARS",
    "GENERATED",
    "IMAGES",
    "LABELS",
    "LABELS_BEFORE",
    "LOWEST",
    "MEASURES",
    "REGIONS",
    "REGION_SIDE",
    "SCORES",
    "Beam",
    "DescriptionsRow",
    "DroppedRow",
    "ExemplarsRow",
    "FeaturesRow",
    "GeneratedRow",
    "ImageRow",
    "LabelsRow",
    "MeasuresRow",
    "RegionsRow",
    "ScoresRow",
    "check",
    "features_schema",
    "from_parquet",
    "from_rows",
    "identity",
    "open_parquet",
    "read_labels",
    "to_parquet",
]
