"""The parts of a model that editing methods speak of, found for every family through its row in
`families`."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from editguard.errors import UnknownPart, UnsupportedModel
from editguard.models.families import FAMILIES, FamilyRow, Flag, Part
from editguard.models.placement import device_of


@dataclass(frozen=True, eq=False)
class Matrix:
    """One weight matrix in the orientation of the field, y = W x + b with W (d_out, d_in).

    Attributes:
        name: the parameter's name in the Hugging Face model, e.g.
            "transformer.h.3.mlp.c_proj.weight".
        module: the linear module that holds it; its input is x and its output y.
        transposed: the parameter is stored as (d_in, d_out); told by the module's type, never by
            its shape.
    """

    name: str
    module: nn.Module
    transposed: bool

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter as it is stored."""
        parameter = self.module.weight
        assert isinstance(parameter, nn.Parameter)
        return parameter

    def weight(self) -> Tensor:
        """A view of the parameter as (d_out, d_in)."""
        return self.parameter.T if self.transposed else self.parameter

    @property
    def device(self) -> torch.device:
        """Where the matrix computes; what meets it is moved there."""
        return device_of(self.module)

    @property
    def bias_name(self) -> str | None:
        """Name of the bias parameter, or None for a module without one."""
        if getattr(self.module, "bias", None) is None:
            return None
        return self.name.removesuffix("weight") + "bias"

    def bias(self) -> Tensor | None:
        """The bias (d_out,), or None."""
        bias = getattr(self.module, "bias", None)
        return bias if isinstance(bias, Tensor) else None

    @property
    def shape(self) -> tuple[int, int]:
        """(d_out, d_in)."""
        rows, columns = self.parameter.shape
        return (columns, rows) if self.transposed else (rows, columns)

    @property
    def d_out(self) -> int:
        """Width of the output."""
        return self.shape[0]

    @property
    def d_in(self) -> int:
        """Width of the input."""
        return self.shape[1]


class Anatomy:
    """The named parts of one Hugging Face language model: a decoder alone, or an encoder and a decoder.

    Attributes:
        family: the `model_type` under which the row was found.
        layers: number of blocks; layers are counted from 0, an encoder's blocks first and the decoder's behind them.
        encoder_layers: how many of the blocks are an encoder's: the first ones, 0 for a decoder alone.
        d_model: width of the residual stream.
        d_ff: width of a key, the input of a down projection.
        parallel: attention and MLP of a block both read the block's input.
        post_mlp_norm: a norm stands between the MLP's output and the block's output, so that a
            change of the one is not the same change of the other.
        normalises_stream: that norm is applied to the whole residual stream (post-LN).

    Raises: UnsupportedModel: no row for the family, or the model does not have the parts that its
    row names.
    """

    def __init__(self, module: PreTrainedModel) -> None:
        self._module = module
        config = module.config
        self.family = str(getattr(config, "model_type", ""))
        row = FAMILIES.get(self.family)
        if row is None:
            raise UnsupportedModel(
                f"no row for the model family {self.family!r} ({type(module).__name__}); known are "
                f"{', '.join(sorted(FAMILIES))}. A family joins by one row in editguard/models/families.py."
            )
        self._row: FamilyRow = row
        text_config = config.get_text_config()
        self._text_config = text_config
        reason = row.unsupported(text_config) if row.unsupported else None
        if reason:
            raise UnsupportedModel(f"this {self.family} model cannot be edited: {reason}.")
        self._encoder_blocks = self._block_list(row.encoder) if row.encoder else []
        self._blocks = [*self._encoder_blocks, *self._block_list(row)]
        self.layers = len(self._blocks)
        self.encoder_layers = len(self._encoder_blocks)
        self.parallel = _holds(row.parallel, text_config)
        self.normalises_stream = _holds(row.normalises_stream, text_config)
        self.post_mlp_norm = row.post_mlp_norm is not None or self.normalises_stream
        self.d_model, self.d_ff = self.down_projection(0).shape
        if (self.d_model, self.d_ff) != self.down_projection(self.layers - 1).shape:
            raise UnsupportedModel(
                f"this {self.family} model cannot be edited: its encoder and decoder differ in width."
            )
        softcap = getattr(text_config, "final_logit_softcapping", None)
        self._softcap: float | None = None if softcap is None else float(softcap)
        self._final_norm = self._norm(row)
        self._encoder_norm = self._norm(row.encoder) if row.encoder else nn.Identity()
        self._scale = row.state_scale(text_config) if row.state_scale else None
        path = row.output_projection
        self._output_projection = self._find(path, optional=True) if path else None
        for needed in (self.head, self.embedding, self.backbone):
            assert isinstance(needed, nn.Module)

    # ---- parts of the whole model

    @property
    def backbone(self) -> nn.Module:
        """The model without its head, of an encoder-decoder model the decoder; its last hidden state is what `unembed`
        takes."""
        return self._part(self._row.backbone)

    @property
    def encoder(self) -> nn.Module | None:
        """The encoder, whose last hidden state is what the decoder attends to; None for a decoder alone."""
        return None if self._row.encoder is None else self._part(self._row.encoder.backbone)

    @property
    def encoder_norm(self) -> nn.Module:
        """The norm after the encoder's last block; the identity where there is none."""
        return self._encoder_norm

    @property
    def embedding(self) -> nn.Module:
        """The token embedding; an encoder and a decoder may read its weight through modules of their own."""
        return self._part(self._row.embedding)

    @property
    def final_norm(self) -> nn.Module:
        """The norm after the last block; the identity where the model has none."""
        return self._final_norm

    @property
    def head(self) -> nn.Module:
        """The linear module from the normalised residual stream to the logits."""
        return self._part(self._row.head)

    # ---- parts of a block

    def block(self, layer: int) -> nn.Module:
        """Block `layer`; its output (the first item, where it is a tuple) is the next residual stream.

        An encoder's last output goes through `encoder_norm` to the attention of all of the decoder's blocks, the first
        of which starts from the embedding.
        """
        self._check(layer)
        return self._blocks[layer]

    def down_projection(self, layer: int) -> Matrix:
        """The MLP's output matrix (d_model, d_ff); its input is the key."""
        return self._matrix(layer, self._row_of(layer).down)

    def up_projections(self, layer: int) -> tuple[Matrix, ...]:
        """The MLP's input matrices (d_ff, d_model): the up projection, then the gate where there is
        one."""
        row = self._row_of(layer)
        names = (self._named(row.up), self._named(row.gate))
        return tuple(self._matrix(layer, name) for name in names if name is not None)

    def gate_projection(self, layer: int) -> Matrix | None:
        """The matrix of the MLP's gate (d_ff, d_model), or None where the MLP is not gated."""
        name = self._named(self._row_of(layer).gate)
        return None if name is None else self._matrix(layer, name)

    def attention_output(self, layer: int) -> Matrix:
        """The matrix from the attention heads to the residual stream (d_model, heads x head width), of the stream's
        attention to itself."""
        return self._matrix(layer, self._row_of(layer).attention_output)

    def queries_and_values(self, layer: int) -> tuple[Matrix, ...]:
        """The matrices that make the queries and values of the stream's attention to itself: two of d_in d_model, or
        the one that makes the keys too.

        Raises: UnsupportedModel: the family's row does not name them.
        """
        names = self._row_of(layer).queries_and_values
        if not names:
            raise UnsupportedModel(
                f"the row of the model family {self.family!r} in editguard/models/families.py does not name the "
                "matrices of queries and values."
            )
        return tuple(self._matrix(layer, name) for name in names)

    def mlp(self, layer: int) -> nn.Module:
        """The module whose output is the MLP's, before any norm that follows it."""
        return self._in_block(layer, self._row_of(layer).mlp)

    def residual_writers(self, layer: int) -> tuple[nn.Module, ...]:
        """The modules whose outputs are added to the residual stream, in their order: attention's first, in a decoder
        with an encoder those of the attention to it, the MLP's last.

        Where the family has norms after these modules, the norms. In a post-LN model
        (`normalises_stream`) the sum of stream and output passes a further norm of the block each
        time.
        """
        row = self._row_of(layer)
        paths = (
            row.post_attention_norm or row.attention_output,
            row.cross_attention_output,
            row.post_mlp_norm or row.mlp,
        )
        return tuple(self._in_block(layer, path) for path in paths if path is not None)

    # ---- from the residual stream to the logits

    def logits(self, hidden: Tensor) -> Tensor:
        """The model's own logits (..., vocabulary) for the last block's output (..., d_model); the last block is the
        decoder's."""
        state = self.final_norm(hidden)
        if self._output_projection is not None:
            state = self._output_projection(state)
        return self.unembed(state)

    def unembed(self, state: Tensor) -> Tensor:
        """Logits (..., vocabulary) for the backbone's last hidden state (..., d_model), after the
        final norm."""
        if self._scale is not None:
            state = state * self._scale
        logits: Tensor = self.head(state)
        if self._row.logits_bias is not None:
            logits = logits + getattr(self._module, self._row.logits_bias).to(logits)[0]
        if self._softcap is not None:
            logits = torch.tanh(logits / self._softcap) * self._softcap
        return logits

    # ---- finding

    def _part(self, path: str) -> nn.Module:
        found = self._find(path)
        assert found is not None
        return found

    def _find(self, path: str, *, optional: bool = False) -> nn.Module | None:
        found: object = self._module
        for step in path.split("."):
            found = getattr(found, step, None)
        if isinstance(found, nn.Module):
            return found
        if optional:
            return None
        raise UnsupportedModel(
            f"{type(self._module).__name__} has no part {path!r}, which a model of the family {self.family!r} "
            f"should have; load it as a {'causal' if self._row.encoder is None else 'sequence-to-sequence'} language "
            "model of the library's own code."
        )

    def _block_list(self, row: FamilyRow) -> list[nn.Module]:
        blocks = self._find(row.blocks)
        if not isinstance(blocks, nn.ModuleList) or not len(blocks):
            raise UnsupportedModel(f"{type(self._module).__name__} has no blocks at {row.blocks!r}.")
        return list(blocks)

    def _norm(self, row: FamilyRow) -> nn.Module:
        found = self._find(row.final_norm, optional=True) if row.final_norm else None
        return nn.Identity() if found is None else found

    def _row_of(self, layer: int) -> FamilyRow:
        """The row of the stack that the layer belongs to."""
        self._check(layer)
        encoder = self._row.encoder
        return self._row if encoder is None or layer >= self.encoder_layers else encoder

    def _named(self, part: Part | None) -> str | None:
        return part(self._text_config) if callable(part) else part

    def _path(self, layer: int, path: str) -> str:
        """From the model to a part of a block."""
        row = self._row_of(layer)
        return f"{row.blocks}.{layer if row is not self._row else layer - self.encoder_layers}.{path}"

    def _check(self, layer: int) -> None:
        if isinstance(layer, bool) or not isinstance(layer, int) or not 0 <= layer < self.layers:
            raise UnknownPart(f"no layer {layer!r}: this {self.family} model has the layers 0 to {self.layers - 1}.")

    def _in_block(self, layer: int, path: str) -> nn.Module:
        return self._part(self._path(layer, path))

    def _matrix(self, layer: int, path: str) -> Matrix:
        module = self._in_block(layer, path)
        name = f"{self._path(layer, path)}.weight"
        if not isinstance(module, nn.Linear | Conv1D) or not module.weight.is_floating_point():
            raise UnsupportedModel(
                f"{name} is held by a {type(module).__name__}, not by a plain linear module: "
                "quantised or adapted models cannot be edited; load the full-precision weights."
            )
        return Matrix(name, module, transposed=isinstance(module, Conv1D))


def _holds(flag: Flag, config: object) -> bool:
    return flag if isinstance(flag, bool) else flag(config)
