"""The frame of the methods that spread their edits over layers: what each of them adds is a class of few lines."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from editguard.edited import EditedModel
from editguard.edits import EditRequest
from editguard.methods.context_templates import prefix_contexts
from editguard.methods.protocol import Preparation
from editguard.methods.residual_spreading import Spreading, edited_by_spreading, matrices
from editguard.methods.settings import Recipe
from editguard.methods.whitening import LayerStatistics, Whitening

if TYPE_CHECKING:
    from editguard.models.language_model import LanguageModel
    from editguard.models.second_moment import SecondMoment

_Derived = TypeVar("_Derived")


class SpreadingMethod(ABC, Generic[_Derived]):
    """All requests in one computation; one low-rank update of each layer's down projection.

    A method names itself and its settings, and says what it derives from the second moment of a layer's keys and how
    it goes the common course. Earlier batches are in the chain of edits, nothing of them in this object.
    """

    name: ClassVar[str]
    settings_type: ClassVar[type]
    recipe: ClassVar[Recipe]

    def __init__(self, settings: Any = None, *, provenance: Mapping[str, str] | None = None) -> None:
        self.settings = settings or self.settings_type()
        self.provenance = dict(provenance or {})
        self.statistics: LayerStatistics[_Derived] = LayerStatistics(self.name, self.derived)

    @abstractmethod
    def derived(self, moment: SecondMoment) -> _Derived:
        """Return what the method needs of one layer's second moment.

        Raises: MethodRefused: the moment does not serve.
        """

    @abstractmethod
    def course(self, model: LanguageModel, statistics: Mapping[int, _Derived]) -> Spreading:
        """Return the method's way through the course, given its statistics by layer.

        Raises: MethodRefused: the model cannot be edited so.
        """

    def prepare(self, model: LanguageModel, data: Preparation) -> None:
        """Draw the prefix contexts and derive the statistics of the layers' keys, on the unedited model.

        Raises: MethodRefused: no such layer. MissingMaterial: there is no text.
        """
        matrices(model, self.name, self.settings.layers)
        prefix_contexts(model, lengths=self.settings.context_lengths, seed=self.settings.seed)
        self.statistics.prepare(model, self.settings.layers, data)

    def apply(self, edited: EditedModel, requests: Sequence[EditRequest]) -> EditedModel:
        """Return `edited` with the requests on top as one batch.

        Raises: ConflictingEdits: two requests want different targets for one fact. MethodRefused: no such layer, not
            prepared, or no target vector was found.
        """
        matrices(edited.model, self.name, self.settings.layers)
        course = self.course(edited.model, self.statistics.of(edited.model))
        return edited_by_spreading(edited, requests, course)


class WhitenedSpreading(SpreadingMethod[Whitening]):
    """The frame of those that solve with C^-1: the moment is shrunk as the settings say, and factorised once."""

    def derived(self, moment: SecondMoment) -> Whitening:
        """Factorise C' = (1 - a) C + a tr(C)/d_ff I.

        Raises: MethodRefused: it is singular, and the shrinkage too small to mend that.
        """
        return Whitening.of(moment, self.settings.shrinkage)
