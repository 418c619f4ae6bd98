"""Settings that every test of editguard shares."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest

pytest_plugins = ["pytester"]


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Keep torch to one thread: the models are tiny, and the machine may be shared."""
    import torch

    torch.set_num_threads(1)
