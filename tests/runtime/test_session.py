"""How a job comes by its Ray."""

import ray

from mer_ray.config import RuntimeConfig
from mer_ray.runtime.session import session


def test_the_ray_of_this_process_is_used_and_stays(ray_cluster):
    node = ray.get_runtime_context().get_node_id()
    with session(RuntimeConfig(num_cpus=1)):
        assert ray.get_runtime_context().get_node_id() == node
    assert ray.is_initialized()
