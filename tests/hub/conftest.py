import pytest
from huggingface_hub import set_client_factory
from huggingface_hub.utils._http import default_client_factory

from tests.hub.client import in_process
from tests.hub.runs import copy_of, train_once
from tests.hub.server import OWNER, Hub


@pytest.fixture
def hub(tmp_path):
    with Hub(tmp_path / "hf_home") as hub:
        yield hub
        assert not hub.crashes, hub.crashes
        assert not hub.unmet, f"faults that no request met, so that the test tried nothing: {hub.unmet}"


@pytest.fixture
def online(hub):
    """`online(token)`: the clients of this process talk to the hub until the test ends; returns its `HfApi`."""
    with pytest.MonkeyPatch.context() as patch:
        yield lambda token=OWNER: in_process(hub, token, patch)
    set_client_factory(default_client_factory)


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    return train_once(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def finished(trained, tmp_path):
    """A finished run of its own for each test."""
    return copy_of(trained, tmp_path)
