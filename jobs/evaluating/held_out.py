"""What a judged run's held-out images say of captions, beyond what its labels table says already."""

import logging

import pyarrow as pa

from jobs.engine.plan import find_plan
from jobs.evaluating.measured import captions_of
from jobs.labelling.judges import Foretold, foretell
from jobs.storage import storage_for
from mami_core.judging import of_another
from mami_core.metrics.measures import Rows, commonest
from mami_core.metrics.scorers import NONE, load_scorer

logger = logging.getLogger(__name__)

NOT_RERANKED = "not reranked"


def held_out_rows(labels: str, scorer: str, about: Rows, table: pa.Table) -> list[dict]:
    """Trust of the commonest caption said of every neuron, AUPRC of others' captions, and trust beyond the layer.

    Where trust reranked the captions, also all that of those which their scores alone would have chosen, on the images
    that judge and chose nothing.

    Nothing where nobody judged, the run's _work folder is gone, or `scorer` is not who judged.

    Args:
        labels: The run's folder.
        scorer: Its name, or "none".
        about: The subject.
        table: Its labels.
    """
    names = set(table["scorer"].drop_null().to_pylist())
    storage = storage_for(labels)
    plan = find_plan(storage)
    if scorer == NONE or not names or plan is None or not storage.find("_work/watched"):
        return []
    judge = load_scorer(scorer)
    if names != {judge.name}:
        logger.warning("The labels were judged by %s, not by %s: no constant beside them.", names, judge.name)
        return []
    captions = captions_of(table)
    constant = commonest(list(captions.values()))
    others = zip(captions, of_another(list(captions), captions), strict=True)
    sources = {
        "captions": captions,
        "shuffled": {neuron: other for neuron, other in others if other is not None},
        "constant": dict.fromkeys(captions, constant),
    }
    if plan.config["trust"]["rerank"]:
        sources[NOT_RERANKED] = _by_score(table)
    rows: list[dict] = []
    for source, found in foretell(storage, plan.config, about.subject, sources, judge).items():
        text = constant if source == "constant" else None
        for group, some in _groups(found):
            measures = {"trust beyond the layer": [number for one in some for number in one.beyond]}
            if source != "captions":  # the labels table has the rest of the captions' own
                measures["trust auprc"] = [number for one in some for number in one.auprc]
            if source in ("constant", NOT_RERANKED):
                measures["trust"] = [number for one in some for number in one.trust]
            for measure, numbers in measures.items():
                rows += about.of(measure, source, numbers, judge=judge.name, text=text, group=group)
    return rows


def _by_score(table: pa.Table) -> dict[tuple[str, int], str]:
    """Each neuron's caption of the highest score."""
    neurons = zip(table["layer"].to_pylist(), table["unit"].to_pylist(), strict=True)
    best = (max(beams, key=lambda beam: beam["score"], default=None) for beams in table["beams"].to_pylist())
    return {neuron: beam["caption"] for neuron, beam in zip(neurons, best, strict=True) if beam is not None}


def _groups(found: list[Foretold]) -> list[tuple[tuple[str, str], list[Foretold]]]:
    """All neurons, and layer by layer if there are several."""
    layers = list(dict.fromkeys(one.layer for one in found))
    by_layer = [(("layer", layer), [one for one in found if one.layer == layer]) for layer in layers]
    return [(("all", "all"), found), *(by_layer if len(layers) > 1 else [])]
