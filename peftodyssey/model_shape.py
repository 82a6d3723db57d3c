"""The sizes of a model: the names and shapes of its linear layers and the counts of its other weights. Floor 0.

`models.shape_from_config` reads it from a config.json. Methods count trainable parameters on it, and `memory` plans
with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class LinearShape:
    """One linear layer of the decoder: `weight` is (out_features, in_features), whatever the storage order.

    `name` is the module's full name in `named_modules()` of the loaded `AutoModelForCausalLM`, e.g.
    `model.layers.0.self_attn.q_proj`; `layer` counts decoder layers from 0, None outside of them.
    """

    name: str
    out_features: int
    in_features: int
    bias: bool
    layer: int | None

    @property
    def parameters(self) -> int:
        """Weights and biases, as a count."""
        return self.out_features * self.in_features + self.out_features * self.bias

    @property
    def leaf(self) -> str:
        """The last part of the name, which `target_modules` matches: `q_proj`."""
        return self.name.rsplit(".", 1)[-1]


@dataclass(frozen=True)
class ModelShape:
    """The sizes of one causal language model. Counts are of parameters, not bytes."""

    family: str  # config.json's model_type
    vocabulary: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    positions: int  # longest sequence the model was made for, in tokens
    tied: bool  # the head shares the input embedding
    gated: bool  # the feed-forward has gate and up projections
    linears: tuple[LinearShape, ...]  # every linear layer of the decoder layers, in module order, without the head
    embedding_parameters: int  # token (and learned position) embeddings
    head_parameters: int  # 0 where tied
    norm_parameters: int  # norms, scales and their biases, in total
    norm_parameters_by_layer: int  # those of one decoder layer
    expert_parameters: int = 0  # of experts stored in one tensor, which are no linear layers; counted as norms too
    traced_config: str = ""  # config.json as JSON, of a family whose step is traced and not simulated; else empty
    hidden_dropout: bool = field(default=False, compare=False)  # the config states dropout of hidden states
    attention_dropout: bool = field(default=False, compare=False)  # and of attention probabilities

    @property
    def parameters(self) -> int:
        """All parameters, a tied head counted once."""
        return (
            sum(m.parameters for m in self.linears)
            + self.embedding_parameters
            + self.head_parameters
            + self.norm_parameters
        )

    @property
    def quantised_share(self) -> float:
        """Share of the decoder layers' matrices that bitsandbytes quantises: it leaves fused experts as they are."""
        linear = sum(m.in_features * m.out_features for m in self.linears)
        return linear / max(1, linear + self.expert_parameters)
