"""What an edit leaves behind: reversible changes, and the model that answers with them in force."""

from editguard.edited.added_neurons import AddedNeurons
from editguard.edited.compaction import compacted, merged
from editguard.edited.consulted import Answered, Consulted, Retrieved
from editguard.edited.edit_memory import EditMemory, Search
from editguard.edited.edited_model import AppliedEdit, EditedModel, newest_memory
from editguard.edited.memory import Front, PromptMemory
from editguard.edited.memory_rows import MemoryRow
from editguard.edited.replaced_weights import ReplacedWeights
from editguard.edited.stack import stack_kept, switch
from editguard.edited.stored import stored_bytes
from editguard.edited.weight_delta import WeightDelta

__all__ = [
    "AddedNeurons",
    "Answered",
    "AppliedEdit",
    "Consulted",
    "EditMemory",
    "EditedModel",
    "Front",
    "MemoryRow",
    "PromptMemory",
    "ReplacedWeights",
    "Retrieved",
    "Search",
    "WeightDelta",
    "compacted",
    "merged",
    "newest_memory",
    "stack_kept",
    "stored_bytes",
    "switch",
]
