"""Labels as the folder that a Neuronpedia of one's own imports: its export format, of which texts are the only content.

    MODEL/SOURCE/{release,model,sourceset,source}.jsonl        what the layer belongs to
    MODEL/SOURCE/{features,activations,explanations}/batch-N.jsonl.gz

A subject is a model, a layer a source. Neuronpedia shows where in a text a feature is active; an exemplar stands there
as a text of one token, the image's name, with its activation. The columns are those of its open source
(`schema.prisma`, September 2026); what is left out has a default there.
"""

import gzip
import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

SET = "mami"
CREATOR = "clkht01d40000jv08hvalcvly"
"""The user that Neuronpedia's own configuration gives to whatever is imported."""
_BATCH = 1024


def files_of(table: pa.Table, creator: str = CREATOR) -> Iterator[tuple[str, bytes]]:
    """Every file with its path below the export's folder, from a labels table sorted by subject, layer and unit."""
    models = _ids(table["subject"].unique().to_pylist())
    for subject, model in models.items():
        of_subject = table.filter(pc.equal(table["subject"], subject))
        layers = of_subject["layer"].unique().to_pylist()
        for number, layer in enumerate(layers):
            rows = of_subject.filter(pc.equal(of_subject["layer"], layer)).to_pylist()
            keys = {"modelId": model, "layer": f"{number}-{SET}__{_id(layer)}"}
            folder = f"{model}/{keys['layer']}"
            about = _about(subject, layer, keys, len(layers), len(rows), creator)
            yield from ((f"{folder}/{name}.jsonl", _lines([row])) for name, row in about.items())
            for batch, start in enumerate(range(0, len(rows), _BATCH)):
                for kind, made in _batches(rows[start : start + _BATCH], keys, creator).items():
                    if made:  # Neuronpedia looks at a file's first line
                        yield f"{folder}/{kind}/batch-{batch}.jsonl.gz", gzip.compress(_lines(made), mtime=0)


def _id(name: str) -> str:
    """What may stand in Neuronpedia's addresses."""
    return re.sub(r"[^a-z0-9_]+", "-", name.lower()).strip("-") or "x"


def _ids(names: Sequence[str]) -> dict[str, str]:
    """For each name an id of its own."""
    made = [_id(name) for name in names]
    ids = {name: each for name, each in zip(names, made, strict=True) if made.count(each) == 1}
    taken = set(ids.values())
    for number, (name, each) in enumerate(zip(names, made, strict=True)):
        if name not in ids:
            ids[name] = next(free for at in itertools.count(number) if (free := f"{each}-{at}") not in taken)
            taken.add(ids[name])
    return ids


def _about(
    subject: str, layer: str, keys: Mapping[str, str], num_layers: int, num_units: int, creator: str
) -> dict[str, dict[str, Any]]:
    model, source = keys["modelId"], keys["layer"]
    shared = {"creatorId": creator, "visibility": "PUBLIC"}
    said = f"What the neurons of {subject} look for, said by MAMI"
    release = f"{SET}-{model}"
    return {
        "release": {"name": release, "description": said, "creatorName": "MAMI", "urls": [], **shared},
        "model": {
            "id": model,
            "displayName": subject,
            "displayNameShort": subject,
            "layers": num_layers,
            "neuronsPerLayer": num_units,
            "owner": "MAMI",
            **shared,
        },
        "sourceset": {
            "modelId": model,
            "name": SET,
            "description": said,
            "creatorName": "MAMI",
            "releaseName": release,
            "urls": [],
            "allowInferenceSearch": False,
            **shared,
        },
        "source": {"id": source, "modelId": model, "setName": SET, "notes": f"Layer {layer}", **shared},
    }


def _batches(rows: Sequence[Mapping[str, Any]], keys: Mapping[str, str], creator: str) -> dict[str, list[dict]]:
    alive = [row for row in rows if not row["dead"]]
    return {
        "features": [
            {
                **_key(keys, row),
                "sourceSetName": SET,
                "creatorId": creator,
                "maxActApprox": max(map(_number, row["exemplar_activations"]), default=0.0),
                "frac_nonzero": _number(row["active_fraction"]),
            }
            for row in rows
        ],
        "activations": [
            {
                "id": _unique(keys, row, rank),
                **_key(keys, row),
                "tokens": [image],
                "values": [_number(activation)],
                "maxValue": _number(activation),
                "minValue": _number(activation),
                "maxValueTokenIndex": 0,
                "creatorId": creator,
            }
            for row in alive
            for rank, (image, activation) in enumerate(
                zip(row["exemplar_images"], row["exemplar_activations"], strict=True)
            )
        ],
        "explanations": [
            {"id": _unique(keys, row, "caption"), **_key(keys, row), "authorId": creator, "description": row["caption"]}
            for row in alive
        ],
    }


def _number(value: float | None) -> float:
    """0 for what is not known, which Neuronpedia has no way to say: nan is no JSON."""
    return value if value is not None and math.isfinite(value) else 0.0


def _key(keys: Mapping[str, str], row: Mapping[str, Any]) -> dict[str, str]:
    return {**keys, "index": str(row["unit"])}


def _unique(keys: Mapping[str, str], row: Mapping[str, Any], what: object) -> str:
    """The same on every export, and so imported once."""
    return hashlib.sha256(repr((sorted(keys.items()), row["unit"], row["run"], what)).encode()).hexdigest()[:25]


def _lines(rows: Sequence[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode()
