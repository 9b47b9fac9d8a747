"""Transformers and other sequence models."""

import math

import torch
from torch import nn
from torch.nn import functional

from .registry import each, net


class RMSNorm(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d))

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


class LlamaAttention(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        self.h = h
        self.wq, self.wk, self.wv, self.wo = (nn.Linear(d, d, bias=False) for _ in range(4))

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = (w(x).view(b, t, self.h, -1).transpose(1, 2) for w in (self.wq, self.wk, self.wv))
        return self.wo(
            functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, d)
        )


class LlamaFF(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.w1, self.w2, self.w3 = (
            nn.Linear(d, 3 * d, bias=False),
            nn.Linear(3 * d, d, bias=False),
            nn.Linear(d, 3 * d, bias=False),
        )

    def forward(self, x):
        return self.w2(functional.silu(self.w1(x)) * self.w3(x))


class LlamaBlock(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        self.attention, self.feed_forward = LlamaAttention(d, h), LlamaFF(d)
        self.attention_norm, self.ffn_norm = RMSNorm(d), RMSNorm(d)

    def forward(self, x):
        x = x + self.attention(self.attention_norm(x))
        return x + self.feed_forward(self.ffn_norm(x))


@net(
    lambda: torch.randint(0, 400, (2, 12)),
    [["tok_embeddings"], *each("layers.#", 4), ["layers.4", "norm"], ["output"]],
    under="lit:transformer",
)
def llama_from_scratch():
    class Transformer(nn.Module):
        def __init__(self, v=4000, d=24):
            super().__init__()
            self.tok_embeddings = nn.Embedding(v, d)
            self.layers = nn.ModuleList(LlamaBlock(d, 2) for _ in range(5))
            self.norm, self.output = RMSNorm(d), nn.Linear(d, v, bias=False)

        def forward(self, tokens):
            h = self.tok_embeddings(tokens)
            for layer in self.layers:
                h = layer(h)
            return self.output(self.norm(h)).float()

    return Transformer()


@net(lambda: torch.randint(0, 400, (2, 12)), [["wte", "wpe"], *each("h.#", 3), ["h.3", "ln_f"]], under="model")
def gpt_tied_functional_head():
    class GPT(nn.Module):
        def __init__(self, v=2000, d=24):
            super().__init__()
            self.wte, self.wpe = nn.Embedding(v, d), nn.Parameter(torch.randn(64, d) * 0.02)
            self.h = nn.ModuleList(LlamaBlock(d, 2) for _ in range(4))
            self.ln_f = nn.LayerNorm(d)

        def forward(self, idx):
            x = self.wte(idx) + self.wpe[: idx.shape[1]]
            for block in self.h:
                x = block(x)
            return functional.linear(self.ln_f(x), self.wte.weight)

    return GPT()


@net(lambda: torch.randint(0, 300, (2, 8)), [["emb", "ln0"], *each("blocks.#", 2), ["blocks.2", "ln_out"], ["head"]])
def rwkv_like():
    class Block(nn.Module):
        def __init__(self, d):
            super().__init__()
            self.ln1, self.ln2 = nn.LayerNorm(d), nn.LayerNorm(d)
            self.decay, self.mix = nn.Parameter(torch.zeros(d)), nn.Parameter(torch.full((d,), 0.5))
            self.r, self.k, self.v, self.o = (nn.Linear(d, d, bias=False) for _ in range(4))
            self.ffn_k, self.ffn_v = nn.Linear(d, 4 * d, bias=False), nn.Linear(4 * d, d, bias=False)

        def forward(self, x):
            y = self.ln1(x)
            y = y * self.mix + functional.pad(y, (0, 0, 1, -1)) * (1 - self.mix)
            k, v, state, outs = self.k(y), self.v(y), 0, []
            for t in range(x.shape[1]):
                state = state * torch.sigmoid(self.decay) + k[:, t] * v[:, t]
                outs.append(state)
            x = x + self.o(torch.sigmoid(self.r(y)) * torch.stack(outs, 1))
            return x + self.ffn_v(functional.relu(self.ffn_k(self.ln2(x))) ** 2)

    class RWKV(nn.Module):
        def __init__(self, d=16):
            super().__init__()
            self.emb, self.ln0 = nn.Embedding(300, d), nn.LayerNorm(d)
            self.blocks = nn.ModuleList(Block(d) for _ in range(3))
            self.ln_out, self.head = nn.LayerNorm(d), nn.Linear(d, 300, bias=False)

        def forward(self, x):
            x = self.ln0(self.emb(x))
            for b in self.blocks:
                x = b(x)
            return self.head(self.ln_out(x))

    return RWKV()


class MHA(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        self.h, self.linears = h, nn.ModuleList(nn.Linear(d, d) for _ in range(4))

    def forward(self, q, k, v, mask=None):
        b, d = q.shape[0], q.shape[-1]
        q, k, v = (lin(x).view(b, -1, self.h, d // self.h).transpose(1, 2) for lin, x in zip(self.linears, (q, k, v)))
        scores = q @ k.transpose(-2, -1) / math.sqrt(d // self.h)
        if mask is not None:
            scores = scores.masked_fill(mask == 0, -1e9)
        return self.linears[-1]((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, -1, d))


class FF(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.w_1, self.w_2 = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def forward(self, x):
        return self.w_2(functional.relu(self.w_1(x)))


class Residual(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.norm = nn.LayerNorm(d)

    def forward(self, x, sublayer):
        return x + sublayer(self.norm(x))


@net(
    lambda: (torch.randint(0, 60, (2, 9)), torch.randint(0, 3, (2, 9))),
    [["bert.embedding"], *each("bert.transformer_blocks.#", 4), ["next_sentence", "mask_lm"]],
)
def bert_pretraining():
    class Embedding(nn.Module):
        def __init__(self, d):
            super().__init__()
            self.token, self.segment, self.position = nn.Embedding(700, d), nn.Embedding(3, d), nn.Embedding(32, d)

        def forward(self, x, s):
            return self.token(x) + self.segment(s) + self.position.weight[: x.shape[1]]

    class Block(nn.Module):
        def __init__(self, d):
            super().__init__()
            self.attention, self.feed_forward = MHA(d, 2), FF(d)
            self.input_sublayer, self.output_sublayer = Residual(d), Residual(d)

        def forward(self, x):
            x = self.input_sublayer(x, lambda y: self.attention(y, y, y))
            return self.output_sublayer(x, self.feed_forward)

    class BERT(nn.Module):
        def __init__(self, d):
            super().__init__()
            self.embedding = Embedding(d)
            self.transformer_blocks = nn.ModuleList(Block(d) for _ in range(4))

        def forward(self, x, s):
            x = self.embedding(x, s)
            for block in self.transformer_blocks:
                x = block.forward(x)
            return x

    class BERTLM(nn.Module):
        def __init__(self, d=24):
            super().__init__()
            self.bert = BERT(d)
            self.next_sentence, self.mask_lm = nn.Linear(d, 2), nn.Linear(d, 700)

        def forward(self, x, s):
            x = self.bert(x, s)
            return self.next_sentence(x[:, 0]).log_softmax(-1), self.mask_lm(x).log_softmax(-1)

    return BERTLM()


@net(
    lambda: (torch.randint(0, 60, (2, 9)), torch.randint(0, 60, (2, 7))),
    [
        ["src_embed"],
        ["encoder.layers.0"],
        ["encoder.layers.1", "encoder.norm"],
        ["decoder.layers.0"],
        ["decoder.layers.1", "decoder.norm"],
        ["generator"],
    ],
    anywhere=["tgt_embed"],
    under="model",
)
def annotated_transformer():
    class EncoderLayer(nn.Module):
        def __init__(self, d):
            super().__init__()
            self.self_attn, self.feed_forward = MHA(d, 2), FF(d)
            self.sublayer = nn.ModuleList(Residual(d) for _ in range(2))

        def forward(self, x):
            x = self.sublayer[0](x, lambda y: self.self_attn(y, y, y))
            return self.sublayer[1](x, self.feed_forward)

    class DecoderLayer(nn.Module):
        def __init__(self, d):
            super().__init__()
            self.self_attn, self.src_attn, self.feed_forward = MHA(d, 2), MHA(d, 2), FF(d)
            self.sublayer = nn.ModuleList(Residual(d) for _ in range(3))

        def forward(self, x, m, mask):
            x = self.sublayer[0](x, lambda y: self.self_attn(y, y, y, mask))
            x = self.sublayer[1](x, lambda y: self.src_attn(y, m, m))
            return self.sublayer[2](x, self.feed_forward)

    class Stack(nn.Module):
        def __init__(self, kind, d):
            super().__init__()
            self.layers, self.norm = nn.ModuleList(kind(d) for _ in range(2)), nn.LayerNorm(d)

        def forward(self, x, *args):
            for layer in self.layers:
                x = layer(x, *args)
            return self.norm(x)

    class EncoderDecoder(nn.Module):
        def __init__(self, d=16):
            super().__init__()
            self.encoder, self.decoder = Stack(EncoderLayer, d), Stack(DecoderLayer, d)
            self.src_embed, self.tgt_embed = nn.Sequential(nn.Embedding(60, d)), nn.Sequential(nn.Embedding(60, d))
            self.generator = nn.Linear(d, 60)

        def forward(self, src, tgt):
            t = tgt.shape[1]
            mask = torch.ones(t, t, device=tgt.device).tril()
            return self.generator(
                self.decoder(self.tgt_embed(tgt), self.encoder(self.src_embed(src)), mask)
            ).log_softmax(-1)

    return EncoderDecoder()


@net(lambda: torch.randn(2, 48, 3), [["patch", "pos"], *each("encoder.layers.#", 3), ["head"]], under="model")
def patch_tst():
    class PatchTST(nn.Module):
        def __init__(self, d=24):
            super().__init__()
            self.patch, self.pos = nn.Linear(8, d), nn.Parameter(torch.zeros(1, 6, d))
            layer = nn.TransformerEncoderLayer(d, 2, 48, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 3)
            self.head = nn.Linear(6 * d, 96)

        def forward(self, x):
            b, _, c = x.shape
            mean, std = x.mean(1, keepdim=True), x.std(1, keepdim=True) + 1e-5
            x = ((x - mean) / std).transpose(1, 2).reshape(b * c, 6, 8)
            x = self.encoder(self.patch(x) + self.pos)
            return self.head(x.flatten(1)).view(b, c, -1).transpose(1, 2) * std + mean

    return PatchTST()


@net(lambda: torch.randn(3, 20), [["lstm1"], ["lstm2"], ["linear"]], under="seq")
def time_sequence_prediction():
    class Sequence(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm1, self.lstm2, self.linear = nn.LSTMCell(1, 24), nn.LSTMCell(24, 24), nn.Linear(24, 1)

        def forward(self, x, future=3):
            outs, h, c, h2, c2 = [], *(x.new_zeros(x.size(0), 24) for _ in range(4))
            for step in x.split(1, dim=1):
                h, c = self.lstm1(step, (h, c))
                h2, c2 = self.lstm2(h, (h2, c2))
                outs.append(self.linear(h2))
            for _ in range(future):
                h, c = self.lstm1(outs[-1], (h, c))
                h2, c2 = self.lstm2(h, (h2, c2))
                outs.append(self.linear(h2))
            return torch.cat(outs, 1)

    return Sequence()
