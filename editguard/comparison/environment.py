"""Where values were obtained: the class that makes two runs comparable, and the full record beside it."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, Self

PACKAGES: Final = ("editguard", "torch", "transformers", "tokenizers", "safetensors", "numpy", "scipy")


@dataclass(frozen=True, kw_only=True)
class Environment:
    """An environment class (device kind, dtype, the model's fingerprint) and what else was so at the time.

    Only the class decides whether values may be compared; the record explains differences.
    """

    device: str
    dtype: str
    fingerprint: str
    record: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def class_id(self) -> str:
        """The class in one word, the key in baseline files."""
        return f"{self.device}-{self.dtype}-{self.fingerprint}"

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` reads."""
        return {
            "device": self.device,
            "dtype": self.dtype,
            "fingerprint": self.fingerprint,
            "record": dict(self.record),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        return cls(**record)


def present_environment(
    *, device: str, dtype: str, fingerprint: str, settings: Mapping[str, Any] | None = None
) -> Environment:
    """Record this process.

    Args:
        device: kind of the device ("cpu", "cuda"), without an index.
        dtype: of the weights, for example "float32".
        fingerprint: of the pristine model.
        settings: what else was configured: batch size, seed, chat template.
    """
    torch = sys.modules.get("torch")
    record: dict[str, Any] = {
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "versions": {name: found for name in PACKAGES if (found := _version(name)) is not None},
        "settings": dict(settings or {}),
    }
    if torch is not None:
        record["threads"] = torch.get_num_threads()
        if device == "cuda" and torch.cuda.is_available():
            record["device_name"] = torch.cuda.get_device_name()
    return Environment(
        device=device.split(":")[0], dtype=dtype.removeprefix("torch."), fingerprint=fingerprint, record=record
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
