"""The trained editors of a method, one for each model: found, loaded or trained, and refused for any other model.

An editor is looked for in the file that the settings name; in the model's own folder (`editors/NAME.safetensors`),
where it must be for this very model, these settings and, where training cases are given, these cases; and in the cache,
under a key of all that determines it. Otherwise it is trained. What goes on from a checkpoint, is trained anew or is
loaded has the same bytes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, Literal, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from editguard.edited import EditedModel
from editguard.errors import InvalidSettings, MethodRefused
from editguard.methods.editor_examples import Draws, EditorExample, editor_examples, split, training_digest
from editguard.methods.editor_store import EditorFiles, Identity, load_editor
from editguard.methods.editor_training import JobSettings, Trainee, train
from editguard.methods.protocol import Preparation
from editguard.methods.settings import shape_of

if TYPE_CHECKING:
    from editguard.edits import EditCase
    from editguard.models.anatomy import Matrix
    from editguard.models.language_model import LanguageModel

FOLDER: Final = "editors"
"""Of trained editors, in a model's folder and in the cache."""


StoredType = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True)
class TrainedEditorSettings(JobSettings):
    """What all methods that train an editor have in common."""

    locality_examples: int = 1
    """Prompts whose answers should stay, for each edit that is trained on."""
    stored_type: StoredType = "float32"
    """Number type of the editor's matrices in its file, and in use."""
    editor: str | None = None
    """A file with a trained editor to use; None takes the model's own, or one from the cache, or trains."""

    of_use: ClassVar[frozenset[str]] = frozenset({"editor"})
    """Settings that a trained editor does not depend on."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.locality_examples < 1:
            raise InvalidSettings(f"locality_examples is at least 1, not {self.locality_examples}.")


class TrainableEditor(nn.Module, ABC):
    """A torch module that says something about itself in the record."""

    @abstractmethod
    def report(self) -> Mapping[str, Any]:
        """Return figures about its state, plain data."""


_Editor = TypeVar("_Editor", bound=TrainableEditor)
Matrices = Mapping[int, Sequence["Matrix"]]


@dataclass(frozen=True, eq=False)
class Ready(Generic[_Editor]):
    """An editor that can edit one model.

    Attributes:
        editor: on the device of the edited matrices, or else of the model, without gradients.
        matrices: by layer; none of an editor that edits no weights.
        record: what an edit's record says of the editor.
    """

    editor: _Editor
    matrices: Matrices
    record: Mapping[str, Any]


class TrainedEditors(Generic[_Editor]):
    """The editors of one instance of a method.

    Args:
        method: registered name.
        code: version of the method's training.
        settings: of the method.
        build: (model, matrices, seed) -> an untrained editor on the CPU.
        trainee: (model, matrices, editor, training draws, validation draws) -> what the job trains.
        matrices: model -> the matrices that it edits, by layer.
        completed: what else the examples need of the model, such as the answers before the edit.
        asks_model: whether the training needs the model's own answers to what should stay.
        started_from: model -> what else determines the editor, in the place of settings of the same names.
    """

    def __init__(
        self,
        method: str,
        code: int,
        settings: TrainedEditorSettings,
        *,
        build: Callable[[LanguageModel, Matrices, int], _Editor],
        trainee: Callable[[LanguageModel, Matrices, _Editor, Draws, Draws], Trainee],
        matrices: Callable[[LanguageModel], Matrices] = lambda _: {},
        completed: Callable[[LanguageModel, Sequence[EditorExample]], Sequence[EditorExample]] = lambda _, found: found,
        asks_model: bool = True,
        started_from: Callable[[LanguageModel], Mapping[str, str]] = lambda _: {},
    ) -> None:
        self._method, self._code, self._settings = method, code, settings
        self._build, self._trainee, self._matrices, self._completed = build, trainee, matrices, completed
        self._asks_model, self._started_from = asks_model, started_from
        self._kept: WeakKeyDictionary[LanguageModel, tuple[tuple[str, int], Ready[_Editor]]] = WeakKeyDictionary()

    def prepare(self, model: LanguageModel, data: Preparation) -> None:
        """Find the model's editor, or train it; nothing happens when that was done with the same data and seed.

        Raises: MissingMaterial: there is no editor, and nothing to train one from. MethodRefused: the model lacks a
            layer, the named editor is another model's, or the training diverged. CacheError: a file is damaged.
        """
        matrices = self._matrices(model)
        cases = tuple(data.training)
        asked = (training_digest(cases), data.seed)
        if model in self._kept and (self._kept[model][0] == asked or not cases):
            return
        identity = self._identity(model, matrices, *asked)
        found = self._named(identity) or self._of_the_model(model, identity, data, trained_from_cases=bool(cases))
        if found is None:
            found = self._trained(model, matrices, identity, cases, data, self._files(identity, data))
        self._kept[model] = (asked, self._ready(model, matrices, *found))

    def train(self, model: LanguageModel, data: Preparation, folder: Path | None) -> Path | None:
        """Train the editor, or go on with it, and return where it is; an earlier result with the same data is kept.

        Args:
            folder: where it goes, under the method's name; None is the cache, under its key.

        Raises: as `prepare`.
        """
        matrices = self._matrices(model)
        cases = tuple(data.training)
        identity = self._identity(model, matrices, training_digest(cases), data.seed)
        files = EditorFiles(folder, self._method, identity) if folder is not None else self._files(identity, data)
        state, plain = self._trained(model, matrices, identity, cases, data, files)
        self._kept[model] = ((identity.data, identity.seed), self._ready(model, matrices, state, plain))
        return files.editor if files is not None else None

    def of(self, model: LanguageModel) -> Ready[_Editor]:
        """Return the model's editor.

        Raises: MethodRefused: nothing was prepared for this model.
        """
        if model not in self._kept:
            raise MethodRefused(
                f"{self._method} was not prepared for this model: call prepare(model, Preparation(training=...)) first."
            )
        return self._kept[model][1]

    # ---- where an editor comes from

    def _named(self, identity: Identity) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The editor of the file that the settings name."""
        if self._settings.editor is None:
            return None
        path = Path(self._settings.editor).expanduser()
        state, plain = load_editor(path)
        if (difference := identity.difference(plain, ignoring=("data", "seed"))) is not None:
            raise MethodRefused(f"{self._method} cannot use the trained editor {path}: {difference}.")
        return state, plain

    def _of_the_model(
        self, model: LanguageModel, identity: Identity, data: Preparation, *, trained_from_cases: bool
    ) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The editor in the model's own folder, if it is one for this model, these settings and these cases."""
        folder = shape_of(model).directory
        path = EditorFiles(folder / FOLDER, self._method, identity).editor if folder is not None else None
        if path is None or not path.is_file():
            return None
        state, plain = load_editor(path)
        difference = identity.difference(plain, ignoring=("seed",) if trained_from_cases else ("data", "seed"))
        if difference is not None:
            data.on_progress(f"{self._method}: the editor {path} is not used: {difference}")
            return None
        return state, plain

    def _files(self, identity: Identity, data: Preparation) -> EditorFiles | None:
        if data.cache_dir is None:
            return None
        return EditorFiles(data.cache_dir / FOLDER, f"{self._method}-{identity.key}", identity)

    def _trained(
        self,
        model: LanguageModel,
        matrices: Matrices,
        identity: Identity,
        cases: Sequence[EditCase],
        data: Preparation,
        files: EditorFiles | None,
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The finished editor of the files, or a trained one."""
        if files is None:
            return self._run(model, matrices, cases, data, None), identity.plain
        with files.lock():
            state = files.load()
            if state is None:
                state = self._run(model, matrices, cases, data, files)
        return state, identity.plain

    def _run(
        self,
        model: LanguageModel,
        matrices: Matrices,
        cases: Sequence[EditCase],
        data: Preparation,
        files: EditorFiles | None,
    ) -> dict[str, Tensor]:
        with EditedModel.original(model):
            usable, left_out = editor_examples(model, self._method, cases, asks_model=self._asks_model)
            learnt, held_out = split(self._completed(model, usable), self._method)
            draws = {
                name: Draws(chosen, locality=self._settings.locality_examples, seed=data.seed, others=others)
                for name, chosen, others in (("train", learnt, held_out), ("validation", held_out, learnt))
            }
            data.on_progress(
                f"{self._method}: training an editor for {model.name} on {len(learnt)} edits, in at most "
                f"{self._settings.steps} steps" + (f"; it is kept in {files.editor}" if files is not None else "")
            )
            editor = self._build(model, matrices, data.seed).to(_device(model, matrices))
            trainee = self._trainee(model, matrices, editor, draws["train"], draws["validation"])
            trained = train(trainee, self._settings, files=files, told=data.on_progress)
        if files is None:
            return self._stored(trained.state)
        editor.load_state_dict(trained.state)
        record = {
            "examples": {"trained": len(learnt), "validation": len(held_out), "without_rephrase": left_out},
            "environment": {
                "torch": torch.__version__,
                "device": model.device.type,
                "dtype": str(model.dtype),
                "threads": torch.get_num_threads(),
            },
            "editor": editor.report(),
            **trained.record,
        }
        state = self._stored(trained.state)
        files.store(state, record)
        return state

    # ---- details

    def _stored(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state as it is kept: matrices in the number type that was chosen, statistics and vectors as they are."""
        chosen: torch.dtype = getattr(torch, self._settings.stored_type)

        def kept(tensor: Tensor) -> Tensor:
            matrix = tensor.ndim >= 2 and tensor.is_floating_point()
            return tensor.detach().to("cpu", chosen if matrix else tensor.dtype, copy=True)

        return {name: kept(tensor) for name, tensor in state.items()}

    def _identity(self, model: LanguageModel, matrices: Matrices, data: str, seed: int) -> Identity:
        settings = {name: value for name, value in asdict(self._settings).items() if name not in self._settings.of_use}
        return Identity(
            method=self._method,
            code=self._code,
            model=model.fingerprint(),
            matrices={matrix.name: matrix.shape for of_layer in matrices.values() for matrix in of_layer},
            settings={**settings, **self._started_from(model)},
            data=data,
            seed=seed,
        )

    def _ready(
        self, model: LanguageModel, matrices: Matrices, state: Mapping[str, Tensor], plain: Mapping[str, Any]
    ) -> Ready[_Editor]:
        editor = self._build(model, matrices, plain["seed"])
        try:
            editor.load_state_dict(dict(state))
        except RuntimeError as failure:
            raise MethodRefused(
                f"{self._method}: the trained editor does not have the shapes that the settings ask for: {failure}"
            ) from failure
        editor.requires_grad_(False).to(_device(model, matrices))
        known = ("data", "seed")
        return Ready(editor, matrices, {"model": plain["model"], **{name: plain[name] for name in known}})


def _device(model: LanguageModel, matrices: Matrices) -> torch.device:
    edited = (matrix.device for of_layer in matrices.values() for matrix in of_layer)
    return next(edited, model.device)
