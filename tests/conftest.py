"""Settings that every test of editguard shares."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
from hypothesis import settings

pytest_plugins = ["pytester"]

# No deadline: the first call of a test may load a library.
settings.register_profile("fast", deadline=None, max_examples=40)
settings.register_profile("thorough", deadline=None)
settings.load_profile("fast")


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Keep torch to one thread: the models are tiny, and the machine may be shared."""
    import torch

    torch.set_num_threads(1)
