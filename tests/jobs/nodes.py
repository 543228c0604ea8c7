"""A Ray of several nodes on this machine; a process can have one of them, and no other Ray beside it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def nodes(*resources: dict[str, Any]) -> Iterator[Callable[[], None]]:
    """Nodes with these CPUs and GPUs, the GPUs in name only, the head first; this process is connected.

    Gives what takes the last node away, without a word.
    """
    import ray
    from ray.cluster_utils import Cluster

    each: list[dict[str, Any]] = [{"object_store_memory": 80 << 20, **of_node} for of_node in resources]
    cluster = Cluster(initialize_head=True, head_node_args=each[0] | {"include_dashboard": False})
    try:
        added = [cluster.add_node(**of_node) for of_node in each[1:]]
        ray.init(address=cluster.address, log_to_driver=False)
        yield lambda: cluster.remove_node(added[-1], allow_graceful=False)
    finally:
        ray.shutdown()
        cluster.shutdown()
