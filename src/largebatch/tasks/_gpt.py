"""A small GPT on bytes: a decoder-only transformer with the normalisation before each sub-layer.

Radford et al. 2019 ("Language Models are Unsupervised Multitask Learners", GPT-2, section 2.3): pre-norm, a final norm,
weights from N(0, 0.02^2), those that write into the residual stream scaled by 1 / sqrt(number of residual layers).
Learned positions; no dropout; output weights optionally tied to the embedding (Press and Wolf 2017, arXiv 1608.05859).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_INITIAL_STD = 0.02


class Attention(nn.Module):
    """Causal multi-head self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """x: (n, tokens, width)."""
        n, tokens, width = x.shape
        split = self.query_key_value(x).view(n, tokens, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)  # each (n, heads, tokens, width / heads)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.output(mixed.transpose(1, 2).reshape(n, tokens, width))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """x: (n, tokens, width)."""
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class GPT(nn.Module):
    """A language model over a vocabulary of `vocabulary` tokens, by default the 256 bytes.

    Args:
        block_tokens: the longest input.
        tie: use the embedding as output weights.

    Raises:
        ValueError: `width` is not a multiple of `heads`.
    """

    def __init__(
        self,
        *,
        vocabulary: int = 256,
        block_tokens: int = 128,
        layers: int = 2,
        heads: int = 4,
        width: int = 128,
        tie: bool = True,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"expected a width that is a multiple of the {heads} heads, got {width}")
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(block_tokens, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, vocabulary, bias=False)
        if tie:
            self.output.weight = self.tokens.weight
        self._initialise(residual_std=_INITIAL_STD / math.sqrt(2 * layers))

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (n, tokens, vocabulary) of the next token at each position. tokens: (n, tokens) int64.

        Raises:
            ValueError: longer than a block.
        """
        length, longest = tokens.shape[1], self.positions.num_embeddings
        if length > longest:
            raise ValueError(
                f"expected at most {longest} tokens, got {length}: build the model with a larger block_tokens"
            )
        x = self.tokens(tokens) + self.positions(torch.arange(length, device=tokens.device))
        return self.output(self.norm(self.blocks(x)))

    def _initialise(self, residual_std: float) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=_INITIAL_STD)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        for name, parameter in self.blocks.named_parameters():
            if name.endswith(("attention.output.weight", "mlp.2.weight")):
                nn.init.normal_(parameter, std=residual_std)
