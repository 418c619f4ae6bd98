"""What identifies a model: its pristine weights, its configuration and its tokenizer."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_NO_PART_OF_THE_MODEL = frozenset(
    {
        "_name_or_path",
        "architectures",
        "transformers_version",
        "dtype",
        "torch_dtype",
        "use_cache",
        "output_attentions",
        "output_hidden_states",
        "return_dict",
        "chunk_size_feed_forward",
        "id2label",
        "label2id",
        "problem_type",
    }
)


def fingerprint(module: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, digests: Mapping[str, str]) -> str:
    """Return 16 hex digits that two models share only when they are the same.

    Args:
        module: the Hugging Face model, for its configuration and the names of what a checkpoint
            holds.
        tokenizer: its vocabulary, merges, normaliser, special tokens and chat template count.
        digests: sha256 of type, shape and bytes of the pristine tensors by name.
    """
    kept = module.state_dict().keys()
    parts = {
        "tensors": {name: digest for name, digest in digests.items() if name in kept},
        "config": lasting(module.config),
        "tokenizer": tokenizer_content(tokenizer),
    }
    canonical = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def lasting(config: PreTrainedConfig) -> dict[str, Any]:
    """What the configuration says beyond its class's defaults.

    Without the defaults, a field that a later version of the library adds changes nothing. Left out as well is what
    depends on the place of the files or on how the model is run.
    """
    given, defaults = config.to_dict(), type(config)().to_dict()
    differing = {key: value for key, value in given.items() if key not in defaults or defaults[key] != value}
    lasting = _without_the_passing(differing)
    assert isinstance(lasting, dict)
    return {**lasting, "model_type": config.model_type}


def _without_the_passing(value: Any) -> Any:
    if isinstance(value, Mapping):
        kept = {key: each for key, each in value.items() if key not in _NO_PART_OF_THE_MODEL}
        return {str(key): _without_the_passing(each) for key, each in kept.items()}
    return [_without_the_passing(each) for each in value] if isinstance(value, list | tuple) else value


def tokenizer_content(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What of a tokenizer decides which tokens a text has; settings of a single call are left out."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        content: Any = sorted(tokenizer.get_vocab().items())
    else:
        content = json.loads(backend.to_str())
        for setting_of_a_call in ("padding", "truncation"):
            content.pop(setting_of_a_call, None)
    return {
        "content": content,
        "special": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "chat_template": getattr(tokenizer, "chat_template", None),
    }
