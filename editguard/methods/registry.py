"""The table of editing methods, and the door for methods of other packages.

The table holds names of classes as text, so that listing the methods imports neither torch nor any method.
Other packages join through the entry-point group `editguard.methods`: an entry point's name is the method's
name; its object is a `MethodInfo`, or a class with the attributes that `EditMethod` asks for.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Literal, cast

from editguard.errors import ConfigurationError, UnknownMethod

if TYPE_CHECKING:
    from editguard.methods.protocol import EditMethod
    from editguard.models.language_model import LanguageModel

ENTRY_POINTS = "editguard.methods"

Family = Literal["fine-tuning", "locate-then-edit", "meta-learning", "added-parameters", "memory-based", "other"]


@dataclass(frozen=True, kw_only=True)
class MethodInfo:
    """What the registry knows of a method without loading it.

    Attributes:
        name: registered name, lower case.
        target: "module:Class" of the implementation.
        family: the survey's family.
        changes: what an edit changes.
        batches: whether several requests are one computation (otherwise they go one after another).
        prepares: what has to happen once per model, or "nothing".
        source: citation.
        encoder_decoder: whether it edits models with an encoder too; where not, it refuses them.
        default: whether the method belongs to the default set.
        trains: whether it trains an editor from edit cases before its first edit; `editguard train` does that too.
    """

    name: str
    target: str
    family: Family
    changes: str
    batches: bool
    prepares: str
    source: str
    encoder_decoder: bool = False
    default: bool = False
    trains: bool = False

    def load(self) -> type[EditMethod]:
        """Import and return the class.

        Raises: ConfigurationError: `target` names nothing importable.
        """
        module, _, attribute = self.target.partition(":")
        try:
            return cast("type[EditMethod]", getattr(import_module(module), attribute))
        except (ImportError, AttributeError) as error:
            raise ConfigurationError(
                f"the editing method {self.name!r} is registered as {self.target!r}, which cannot be imported: {error}"
            ) from error

    @property
    def settings_type(self) -> type | None:
        """The dataclass of the method's settings, or None where it has none."""
        return getattr(self.load(), "settings_type", None)

    def as_dict(self) -> dict[str, Any]:
        """Return the description as plain data."""
        return asdict(self)


BUILT_IN: tuple[MethodInfo, ...] = (
    MethodInfo(
        name="ft-l",
        target="editguard.methods.fine_tuning:ConstrainedFineTuning",
        family="fine-tuning",
        changes="one down projection, dense, inside an L-infinity ball",
        batches=True,
        prepares="nothing",
        source="Zhu et al. 2020, Modifying Memories in Transformer Models; as in Meng et al. 2022 (FT+L)",
        encoder_decoder=True,
        default=True,
    ),
    MethodInfo(
        name="ft",
        target="editguard.methods.fine_tuning:FreeFineTuning",
        family="fine-tuning",
        changes="one down projection, dense",
        batches=True,
        prepares="nothing",
        source="Meng et al. 2022, Locating and Editing Factual Associations in GPT (the baseline FT)",
        encoder_decoder=True,
    ),
    MethodInfo(
        name="ft-m",
        target="editguard.methods.fine_tuning:MaskedFineTuning",
        family="fine-tuning",
        changes="one down projection, dense",
        batches=True,
        prepares="nothing",
        source="Zhang et al. 2024, A Comprehensive Study of Knowledge Editing for Large Language Models",
        encoder_decoder=True,
    ),
    MethodInfo(
        name="kn",
        target="editguard.methods.knowledge_neurons:KnowledgeNeurons",
        family="locate-then-edit",
        changes="some columns of the down projections of any layers, rank one per layer and request",
        batches=False,
        prepares="prefix contexts",
        source="Dai, Dong, Hao, Sui, Chang, Wei 2022, Knowledge Neurons in Pretrained Transformers",
        encoder_decoder=True,
    ),
    MethodInfo(
        name="rome",
        target="editguard.methods.rome:Rome",
        family="locate-then-edit",
        changes="one down projection, rank one per request",
        batches=False,
        prepares="second moment of one layer's keys; prefix contexts",
        source="Meng, Bau, Andonian, Belinkov 2022, Locating and Editing Factual Associations in GPT",
        default=True,
    ),
    MethodInfo(
        name="r-rome",
        target="editguard.methods.r_rome:RRome",
        family="locate-then-edit",
        changes="one down projection, rank one per request",
        batches=False,
        prepares="second moment of one layer's keys; prefix contexts",
        source="Gupta, Baskaran, Anumanchipalli 2024, Rebuilding ROME: Resolving Model Collapse during Sequential "
        "Model Editing",
    ),
    MethodInfo(
        name="memit",
        target="editguard.methods.memit:Memit",
        family="locate-then-edit",
        changes="the down projections of a few consecutive layers, one rank per request",
        batches=True,
        prepares="second moments of the layers' keys; prefix contexts",
        source="Meng, Sen Sharma, Andonian, Belinkov, Bau 2023, Mass-Editing Memory in a Transformer",
    ),
    MethodInfo(
        name="pmet",
        target="editguard.methods.pmet:Pmet",
        family="locate-then-edit",
        changes="the down projections of a few consecutive layers, one rank per request",
        batches=True,
        prepares="second moments of the layers' keys; prefix contexts",
        source="Li, Li, Song, Yang, Ma, Yu 2024, PMET: Precise Model Editing in a Transformer",
    ),
    MethodInfo(
        name="emmet",
        target="editguard.methods.emmet:Emmet",
        family="locate-then-edit",
        changes="one down projection, one rank per request",
        batches=True,
        prepares="second moment of the layer's keys; prefix contexts",
        source="Gupta, Sajnani, Anumanchipalli 2024, A Unified Framework for Model Editing",
    ),
    MethodInfo(
        name="alphaedit",
        target="editguard.methods.alphaedit:AlphaEdit",
        family="locate-then-edit",
        changes="the down projections of a few consecutive layers, in directions that text hardly uses",
        batches=True,
        prepares="null spaces of the layers' second moments; prefix contexts",
        source="Fang et al. 2025, AlphaEdit: Null-Space Constrained Knowledge Editing for Language Models",
    ),
    MethodInfo(
        name="memit-rect",
        target="editguard.methods.rect:MemitRect",
        family="locate-then-edit",
        changes="the down projections of a few consecutive layers, their relatively largest changes",
        batches=True,
        prepares="second moments of the layers' keys; prefix contexts",
        source="Gu et al. 2024, Model Editing Harms General Abilities of Large Language Models: Regularization to the "
        "Rescue",
    ),
    MethodInfo(
        name="memit-prune",
        target="editguard.methods.prune:MemitPrune",
        family="locate-then-edit",
        changes="the down projections of a few consecutive layers, the sum of all edits capped",
        batches=True,
        prepares="second moments of the layers' keys; prefix contexts",
        source="Ma et al. 2025, Perturbation-Restrained Sequential Model Editing",
    ),
    MethodInfo(
        name="ke",
        target="editguard.methods.ke:Ke",
        family="meta-learning",
        changes="the MLP matrices of the last blocks, low-rank, as a trained network gates the edit's gradient",
        batches=False,
        prepares="an editor trained on edit cases with rephrases and facts that should stay",
        source="De Cao, Aziz, Titov 2021, Editing Factual Knowledge in Language Models",
        encoder_decoder=True,
        trains=True,
    ),
    MethodInfo(
        name="mend",
        target="editguard.methods.mend:Mend",
        family="meta-learning",
        changes="the MLP matrices of the last blocks, low-rank, as a trained network transforms the edit's gradient",
        batches=True,
        prepares="an editor trained on edit cases with rephrases and facts that should stay",
        source="Mitchell, Lin, Bosselut, Finn, Manning 2022, Fast Model Editing at Scale",
        encoder_decoder=True,
        trains=True,
    ),
    MethodInfo(
        name="lora",
        target="editguard.methods.lora:Lora",
        family="added-parameters",
        changes="matrices of all layers' attention or MLP, low rank",
        batches=True,
        prepares="nothing; needs the package peft",
        encoder_decoder=True,
        source="Hu et al. 2022, LoRA: Low-Rank Adaptation of Large Language Models; as in Wang et al. 2024 (EasyEdit)",
    ),
    MethodInfo(
        name="t-patcher",
        target="editguard.methods.t_patcher:TPatcher",
        family="added-parameters",
        changes="no weight; a few neurons beside the last MLP per request",
        batches=False,
        prepares="memories of what the MLP reads on running text",
        source="Huang, Shen, Zhang, Zhou, Rong, Xiong 2023, Transformer-Patcher: One Mistake Worth One Neuron",
        encoder_decoder=True,
    ),
    MethodInfo(
        name="calinet",
        target="editguard.methods.calinet:CaliNet",
        family="added-parameters",
        changes="no weight; slots beside the MLPs of chosen layers, shared by the requests of a batch",
        batches=True,
        prepares="prefix contexts",
        source="Dong, Dai, Song, Xu, Sui, Li 2022, Calibrating Factual Knowledge in Pretrained Language Models",
        encoder_decoder=True,
    ),
    MethodInfo(
        name="grace",
        target="editguard.methods.grace:Grace",
        family="added-parameters",
        changes="a codebook at one matrix: a key, a value and a radius per request; no weight",
        batches=True,
        prepares="nothing; texts where the radius is calibrated",
        encoder_decoder=True,
        source="Hartvigsen, Sankaranarayanan, Palangi, Kim, Ghassemi 2023, Aging with GRACE: Lifelong Model Editing "
        "with Discrete Key-Value Adaptors",
    ),
    MethodInfo(
        name="wise",
        target="editguard.methods.wise:Wise",
        family="added-parameters",
        changes="sparse copies of one matrix beside it, for the prompts that stir them; no weight",
        batches=False,
        prepares="prefix contexts; out-of-scope prompts from texts",
        source="Wang, Li, Zhang et al. 2024, WISE: Rethinking the Knowledge Memory for Lifelong Model Editing of Large "
        "Language Models",
    ),
    MethodInfo(
        name="serac",
        target="editguard.methods.serac:Serac",
        family="memory-based",
        changes="who answers: a small trained model where a remembered edit concerns the prompt; no weight",
        batches=True,
        prepares="a scope classifier and a counterfactual model, trained on edit cases",
        source="Mitchell, Lin, Bosselut, Manning, Finn 2022, Memory-Based Model Editing at Scale",
        encoder_decoder=True,
        trains=True,
    ),
    MethodInfo(
        name="ike",
        target="editguard.methods.in_context:InContextEditing",
        family="memory-based",
        changes="the prompt; no weight",
        batches=True,
        prepares="an index of the demonstration records",
        source="Zheng et al. 2023, Can We Edit Factual Knowledge by In-Context Learning?",
        encoder_decoder=True,
        default=True,
    ),
    MethodInfo(
        name="mem-prompt",
        target="editguard.methods.mem_prompt:MemPrompt",
        family="memory-based",
        changes="the prompt; no weight",
        batches=True,
        prepares="nothing",
        source="Madaan, Tandon, Clark, Yang 2022, Memory-assisted Prompt Editing to Improve GPT-3 after Deployment",
        encoder_decoder=True,
    ),
    MethodInfo(
        name="mello",
        target="editguard.methods.mello:Mello",
        family="memory-based",
        changes="the prompt, by a loop of sub-questions; no weight",
        batches=True,
        prepares="nothing",
        source="Zhong, Wu, Manning, Potts, Chen 2023, MQuAKE: Assessing Knowledge Editing in Language Models via "
        "Multi-Hop Questions",
        encoder_decoder=True,
    ),
)


def methods() -> dict[str, MethodInfo]:
    """Return every registered method by name: the built-in ones, then those of other packages."""
    return {**{info.name: info for info in BUILT_IN}, **_from_other_packages()}


def default_methods() -> tuple[str, ...]:
    """Return the names of the default set."""
    return tuple(info.name for info in methods().values() if info.default)


def create(name: str, settings: Mapping[str, Any] | None = None, model: LanguageModel | None = None) -> EditMethod:
    """Return the method, set up for the model.

    Settings are resolved for the model (see `editguard.methods.settings`); without a model only the method's own
    defaults and the explicit settings count.

    Raises: UnknownMethod: no such name. InvalidSettings: a setting is unknown or impossible.
    """
    known = methods()
    if name not in known:
        raise UnknownMethod(name, known)
    implementation = known[name].load()
    from editguard.methods.settings import configured

    return configured(name, implementation, settings or {}, model)


@lru_cache(maxsize=1)
def _from_other_packages() -> dict[str, MethodInfo]:
    built_in = {info.name for info in BUILT_IN}
    found: dict[str, MethodInfo] = {}
    for point in sorted(entry_points(group=ENTRY_POINTS), key=lambda point: point.name):
        if point.name in built_in or point.name in found:
            warnings.warn(f"the method {point.name!r} of {_origin(point)} is ignored: the name is taken.", stacklevel=3)
            continue
        try:
            found[point.name] = _described(point)
        except Exception as error:  # a broken package must not take the other methods along
            warnings.warn(f"the method {point.name!r} of {_origin(point)} cannot be loaded: {error}", stacklevel=3)
    return found


def _origin(point: EntryPoint) -> str:
    return f"the package {point.dist.name!r}" if point.dist else point.value


def _described(point: EntryPoint) -> MethodInfo:
    thing = point.load()
    if isinstance(thing, MethodInfo):
        return thing
    if not callable(getattr(thing, "apply", None)):
        raise TypeError(f"{point.value} is neither a MethodInfo nor a class with a function `apply`")
    summary = (thing.__doc__ or "").strip().partition("\n")[0]
    return MethodInfo(
        name=point.name,
        target=point.value,
        family=getattr(thing, "family", "other"),
        changes=getattr(thing, "changes", "not stated"),
        batches=getattr(thing, "batches", False),
        prepares=getattr(thing, "prepares", "not stated"),
        source=getattr(thing, "source", summary or "not stated"),
        encoder_decoder=getattr(thing, "encoder_decoder", False),
        trains=callable(getattr(thing, "train", None)),
    )
