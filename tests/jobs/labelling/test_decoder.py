"""Which decoder a run's workers have."""

import pytest

from jobs.engine.pool import PoolConfig
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
    assert _decoder(pool, LabelConfig()) == decoder
