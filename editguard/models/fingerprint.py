"""What identifies a model: its pristine weights, its configuration and its tokenizer."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

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
        "config": _lasting(module.config.to_dict()),
        "tokenizer": _tokenizer_content(tokenizer),
    }
    canonical = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _lasting(config: Any) -> Any:
    """The configuration without what depends on the library's version, the place of the files or on
    how it is run."""
    if isinstance(config, Mapping):
        return {str(key): _lasting(value) for key, value in config.items() if key not in _NO_PART_OF_THE_MODEL}
    return [_lasting(item) for item in config] if isinstance(config, list | tuple) else config


def _tokenizer_content(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
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
