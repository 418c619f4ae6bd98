"""The options of `editguard study`; light, because every command of the program declares them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from editguard.device_map import add_device_options
from editguard.pocket import MODEL_NAME, MODEL_NAMES

ENGINES: Final = ("local", "ray")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where records and tables go")
    parser.add_argument("--table", action="store_true", help="only make the tables again from the folder's records")
    parser.add_argument("--parquet", action="store_true", help="also write every record to records.parquet")
    parser.add_argument("--plan", action="store_true", help="show cells, amounts and time of the plan, and run nothing")
    parser.add_argument("--costs", type=Path, metavar="FOLDER", help="a study whose costs tell how long this one takes")
    parser.add_argument(
        "--model",
        default=MODEL_NAME,
        help=f"comma list of {', '.join(MODEL_NAMES)}, directories or hub names (default: pocket); each gets a study",
    )
    parser.add_argument("--revision", help="revision of a model from the hub")
    parser.add_argument(
        "--cases",
        type=_paths,
        default=(),
        metavar="FILE,FILE",
        help="data sets, a study for each: edit cases, one JSON object per line; 'pocket': those of the embedded "
        "models, for others of their world",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="draw so many cases, or use the first N of the file")
    parser.add_argument("--methods", type=_names, default=("default",), help="comma list, 'default' or 'all'")
    parser.add_argument("--single", type=int, default=0, metavar="N", help="edit the first N cases each alone")
    parser.add_argument("--batch", type=_numbers, default=(), metavar="N,N", help="sizes of batches")
    parser.add_argument("--sequence", type=_numbers, default=(), metavar="N,N", help="checkpoints of a sequence")
    parser.add_argument("--orders", type=int, default=1, metavar="N", help="run sequences in N orders of their cases")
    parser.add_argument(
        "--set", dest="settings", action="append", default=[], metavar="METHOD.NAME=VALUE", help="a method's setting"
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything random")
    add_device_options(parser)
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16, float16")
    parser.add_argument("--batch-size", type=int, default=128, metavar="N", help="prompts answered at once")
    parser.add_argument("--workers", type=int, metavar="N", help="processes that share the work, each with a model")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of the processor, for each process")
    parser.add_argument("--engine", choices=ENGINES, default="local", help="this machine, or a Ray cluster")
    parser.add_argument("--ray-address", metavar="A", help="of the cluster: auto, or HOST:PORT (default: RAY_ADDRESS)")
    parser.add_argument("--gpus-per-worker", type=float, metavar="F", help="on Ray; a fraction shares one (default: 1)")
    parser.add_argument("--tokens", type=int, metavar="N", help="tokens for second moments (default: 10 x d_ff)")
    parser.add_argument("--corpus", type=Path, metavar="FILE", help="running text, one document per line")
    parser.add_argument("--demonstrations", type=Path, metavar="FILE", help="records for methods that edit by example")
    parser.add_argument("--training", type=Path, metavar="FILE", help="edit cases for methods that train an editor")
    parser.add_argument("--cache-dir", type=Path, metavar="DIR", help="where prepared data is kept")
    parser.add_argument("--keep-prompts", action="store_true", help="record the prompts that memories of edits write")
    parser.add_argument("--offline", action="store_true", help="never ask the network for a model")


def _paths(text: str) -> tuple[Path, ...]:
    return tuple(Path(name) for name in _names(text))


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for part in text.split(",") if (name := part.strip()))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(",") if part.strip())
