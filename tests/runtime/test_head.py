"""Which answer of the head ends a job; ``tests/faults/test_lost.py`` restarts a real one."""

import threading

import pytest
from ray.exceptions import AuthenticationError, RpcError

from mer_ray.runtime import head

REFUSAL = AuthenticationError("RPC error: WrongClusterID: Perhaps the client is accessing GCS after it has restarted.")


class Client:
    """A head that gives the answers one after another, and then says that the job is over."""

    def __init__(self, *answers):
        self.answers, self.over = list(answers), threading.Event()

    def internal_kv_get(self, key, namespace, timeout):
        answer = self.answers.pop(0)
        if not self.answers:
            self.over.set()
        if isinstance(answer, Exception):
            raise answer


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(head, "_CHECK_SECONDS", 0.001)


@pytest.mark.parametrize(
    ("answers", "ends"),
    [
        ((None, None), 0),
        ((None, REFUSAL, None), 1),
        ((RpcError("it is away"), AuthenticationError("the token is wrong"), None), 0),
        ((None, REFUSAL), 0),
    ],
    ids=["its own", "another", "other faults", "another, but all is done"],
)
def test_a_job_ends_by_another_head_alone(answers, ends):
    client, ended = Client(*answers), []
    head.watch(client, client.over, lambda: ended.append(1))
    assert len(ended) == ends
