"""What an edit leaves behind: reversible changes, and the model that answers with them in force."""

from editguard.edited.added_neurons import AddedNeurons
from editguard.edited.compaction import compacted, merged
from editguard.edited.edited_model import AppliedEdit, EditedModel
from editguard.edited.memory import PromptMemory, remembered
from editguard.edited.stack import stack_kept, switch
from editguard.edited.stored import stored_bytes
from editguard.edited.weight_delta import WeightDelta

__all__ = [
    "AddedNeurons",
    "AppliedEdit",
    "EditedModel",
    "PromptMemory",
    "WeightDelta",
    "compacted",
    "merged",
    "remembered",
    "stack_kept",
    "stored_bytes",
    "switch",
]
