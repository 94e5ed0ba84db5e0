"""Classes of Hugging Face's transformers with random weights, as models of llmrun (docs/own-model.md)."""

from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)


class CausalLM(nn.Module):
    """A transformers model as llmrun calls it: tokens [B, L + 1] -> logits [B, L, vocabulary] for tokens[:, :-1]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        """The last token is only a target.  Without a cache: a module that keeps state cannot be resumed."""
        return self.model(tokens[:, :-1], use_cache=False).logits


def gpt2(vocab_size: int, L_ctx: int, width: int, layers: int, heads: int, dropout: float = 0.0) -> nn.Module:
    """GPT-2 (Radford et al. 2019)."""
    config = GPT2Config(
        vocab_size=vocab_size,
        n_positions=L_ctx,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        embd_pdrop=dropout,
        resid_pdrop=dropout,
        attn_pdrop=dropout,
        bos_token_id=None,
        eos_token_id=None,
    )
    return CausalLM(GPT2LMHeadModel(config))


def llama(vocab_size: int, L_ctx: int, width: int, layers: int, heads: int, kv_heads: int) -> nn.Module:
    """Llama 2 and 3 (Touvron et al. 2023)."""
    config = LlamaConfig(
        vocab_size=vocab_size,
        max_position_embeddings=L_ctx,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        bos_token_id=None,
        eos_token_id=None,
    )
    return CausalLM(LlamaForCausalLM(config))


def qwen3(vocab_size: int, L_ctx: int, width: int, layers: int, heads: int, kv_heads: int) -> nn.Module:
    """Qwen3 (Yang et al. 2025)."""
    config = Qwen3Config(
        vocab_size=vocab_size,
        max_position_embeddings=L_ctx,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=width // heads,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    return CausalLM(Qwen3ForCausalLM(config))


def mamba(vocab_size: int, width: int, layers: int, state_size: int = 16) -> nn.Module:
    """Mamba (Gu and Dao 2023)."""
    config = MambaConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        num_hidden_layers=layers,
        state_size=state_size,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    return CausalLM(MambaForCausalLM(config))
