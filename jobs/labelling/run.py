"""A labelling run's work: its stages one after the other, from the list of images to the manifest."""

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import closing

import pyarrow as pa

from jobs.engine.items import Item, Output, Worker
from jobs.engine.kept import one_at_a_time
from jobs.engine.plan import Plan, write_manifest
from jobs.engine.pool import PoolConfig, is_one_machine
from jobs.engine.work import StageReport, require_complete, run_stages
from jobs.labelling import stages, trust_stages
from jobs.labelling.decoding import OnCpus
from jobs.labelling.layout import IMAGES, README, README_TEXT
from jobs.labelling.networks import Networks
from jobs.labelling.prepare import Prepared
from jobs.labelling.specs import RunSpec
from jobs.storage import Storage
from mami_core import contracts
from mami_core.errors import ConfigError
from mami_core.images import MOST_THREADS, Decoder, InThreads
from mami_core.images.on_gpu import OnGpu
from mami_core.images.read_ahead import num_readers_for
from mami_core.pipeline import LabelConfig


def work(storage: Storage, plan: Plan, prepared: Prepared, pool: PoolConfig | None) -> list[StageReport]:
    """Works every stage, up to the manifest. Without a pool, in this process and without Ray.

    Raises:
        IncompleteRunError: something is missing; names it.
        ImageSourceError: not one image could be used.
    """
    spec = dataclasses.replace(prepared.spec, run=plan.fingerprint[:16])
    if pool:
        in_parquet = any(path.endswith(".parquet") for path in prepared.images["path"].slice(0, 1).to_pylist())
        decoder = _decoder(pool, spec.config, in_parquet=in_parquet)
        spec = dataclasses.replace(spec, device="cuda" if pool.num_gpus else "cpu", decoder=decoder)
    images = located(prepared.images, storage) if spec.layout.generated else prepared.images
    groups = [images.slice(first, end - first) for first, end in spec.layout.chunks()]
    storage.write(README, README_TEXT.encode())
    storage.write(IMAGES, contracts.to_parquet(groups, contracts.IMAGES))
    reports = []
    made_with = {"spec": spec, "workers": WORKERS}
    with closing(run_stages(storage, spec.layout.stages().values(), Labeller, made_with, pool=pool)) as ended:
        for report in ended:
            require_complete(report)  # the next stage reads what this one made
            if report.stage == "exemplars":
                stages.collect_dropped(storage, spec.layout)
            reports.append(report)
    write_manifest(storage, plan, spec.layout.finished_keys())
    return reports


def located(images: pa.Table, storage: Storage) -> pa.Table:
    """Images in files of the run itself, wherever that lies."""
    paths = pa.array([storage.locate(path) for path in images["path"].to_pylist()], pa.string())
    return images.set_column(images.column_names.index("path"), images.field("path"), paths)


WORKERS = {
    "generate": stages.GenerateImages,
    "exemplars": stages.SearchImages,
    "merge": stages.MergeUnits,
    "features": stages.EncodeImages,
    "held_out": trust_stages.SeeImages,
    "captions": stages.CaptionUnits,
    "trust": trust_stages.JudgeUnits,
}


class Labeller:
    """Works the items of all stages, each by its worker; they share what is loaded."""

    def __init__(self, spec: RunSpec, workers: Mapping[str, Callable[[Networks], Worker]]) -> None:
        self._networks, self._workers = Networks(spec), workers
        self._of_stage = one_at_a_time(lambda stage: self._workers[stage](self._networks))

    def process(self, item: Item, storage: Storage) -> Output:
        """As the stage's worker does."""
        return self._of_stage(item.stage).process(item, storage)


def _decoder(pool: PoolConfig, config: LabelConfig, *, in_parquet: bool) -> Decoder:
    """Each worker's GPU, threads or processes, or tasks that claim CPUs of other machines where there are any.

    A task reads Parquet from the start of its row group again: by itself a worker decodes that in threads.
    """
    if config.decode_on == "gpu":
        if not pool.num_gpus or pool.helper_cpus:
            raise ConfigError("decode_on 'gpu' needs workers with a GPU, and no CPUs of other machines (decode_cpus).")
        num_cpus = int(pool.num_cpus)
        return OnGpu(num_threads=max(2, min(num_cpus, MOST_THREADS)), num_readers=num_readers_for(num_cpus))
    if pool.helper_cpus:
        import ray

        nodes = sum(node["Alive"] for node in ray.nodes())
        return OnCpus(pool.helper_cpus, num_cpus=0.0 if is_one_machine(ray.cluster_resources(), nodes) else 1.0)
    if pool.num_gpus and pool.num_cpus > MOST_THREADS and not in_parquet:
        return OnCpus(int(pool.num_cpus) - 1, num_cpus=0.0)  # on CPUs that the worker has claimed
    return InThreads(max(2, min(int(pool.num_cpus), MOST_THREADS)))
