"""Which decoder a run's workers have."""

from dataclasses import replace

import pytest
import ray

from jobs import label
from jobs.engine.pool import PoolConfig
from jobs.label import LabelJob
from jobs.labelling.decoding import OnCpus
from jobs.labelling.run import _decoder
from mami_core.images import Decoder, InThreads
from mami_core.pipeline import LabelConfig


@pytest.mark.parametrize(
    ("pool", "decoder"),
    [
        (PoolConfig(num_gpus=1, num_cpus=15), OnCpus(14, num_cpus=0)),
        (PoolConfig(num_gpus=1, num_cpus=8), InThreads(8)),
        (PoolConfig(num_cpus=15), InThreads(8)),
        (PoolConfig(num_cpus=1), InThreads(2)),
    ],
)
def test_processes_decode_for_a_gpu_where_threads_stop_scaling(pool: PoolConfig, decoder: Decoder) -> None:
    assert _decoder(pool, LabelConfig(), in_parquet=False) == decoder


def test_parquet_is_decoded_in_threads() -> None:
    assert _decoder(PoolConfig(num_gpus=1, num_cpus=15), LabelConfig(), in_parquet=True) == InThreads(8)


def test_a_worker_leaves_cpus_free_where_others_decode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 16, "GPU": 1}}])
    job = LabelJob(subject=("efficientnet_lite0",), images="photos", output="labels", num_gpus=1)
    assert label.pool_of(job).num_cpus == 15
    assert label.pool_of(replace(job, decode_cpus=8)).num_cpus == 1
    assert label.pool_of(replace(job, decode_cpus=8, num_cpus=3.0)).num_cpus == 3
