"""Text, speech and other sequences."""

import math

import torch
from torch import nn
from torch.nn import functional

from .registry import each, net


@net(
    lambda: torch.randint(0, 100, (2, 12)),
    [["word_embeds"], ["lstm.*_l0", "lstm.*_l0_reverse"], ["lstm.*_l1", "lstm.*_l1_reverse"], ["hidden2tag"]],
    anywhere=["transitions"],
    under="lit:model",
)
def bilstm_tagger():
    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.word_embeds = nn.Embedding(100, 24)
            self.lstm = nn.LSTM(24, 16, num_layers=2, bidirectional=True, batch_first=True, dropout=0.2)
            self.hidden2tag = nn.Linear(32, 9)
            self.transitions = nn.Parameter(torch.randn(9, 9))

        def forward(self, x):
            return self.hidden2tag(self.lstm(self.word_embeds(x))[0])

    return Tagger()


@net(
    lambda: (torch.randint(0, 60, (2, 7)), torch.randint(0, 50, (2, 5))),
    [["encoder.embedding"], ["encoder.gru"], ["decoder.gru"], ["decoder.out"]],
    anywhere=["decoder.embedding", "decoder.attention", "encoder.fc"],
)
def seq2seq_bahdanau():
    class Attention(nn.Module):
        def __init__(self, h):
            super().__init__()
            self.Wa, self.Ua, self.Va = nn.Linear(h, h), nn.Linear(h, h), nn.Linear(h, 1)

        def forward(self, query, keys):
            w = functional.softmax(self.Va(torch.tanh(self.Wa(query) + self.Ua(keys))), 1)
            return (w * keys).sum(1, keepdim=True)

    class Encoder(nn.Module):
        def __init__(self, h):
            super().__init__()
            self.embedding, self.gru = nn.Embedding(60, h), nn.GRU(h, h, batch_first=True, bidirectional=True)
            self.fc = nn.Linear(2 * h, h)

        def forward(self, x):
            out, hid = self.gru(self.embedding(x))
            return self.fc(out), torch.tanh(self.fc(torch.cat([hid[0], hid[1]], -1)))[None]

    class Decoder(nn.Module):
        def __init__(self, h):
            super().__init__()
            self.embedding, self.attention = nn.Embedding(50, h), Attention(h)
            self.gru, self.out = nn.GRU(2 * h, h, batch_first=True), nn.Linear(h, 50)

        def forward(self, keys, hidden, target):
            outs = []
            for i in range(target.shape[1]):
                e = self.embedding(target[:, i : i + 1])
                o, hidden = self.gru(torch.cat([e, self.attention(hidden.transpose(0, 1), keys)], 2), hidden)
                outs.append(self.out(o))
            return torch.cat(outs, 1)

    class Seq2Seq(nn.Module):
        def __init__(self, h=24):
            super().__init__()
            self.encoder, self.decoder = Encoder(h), Decoder(h)

        def forward(self, src, tgt):
            return self.decoder(*self.encoder(src), tgt)

    return Seq2Seq()


@net(
    lambda: torch.randint(0, 200, (10, 2)),
    [["encoder"], ["rnns.0"], ["rnns.1"], ["rnns.2"]],
    anywhere=["decoder.bias"],
    under="model",
)
def awd_lstm_tied():
    class RNNModel(nn.Module):
        def __init__(self, v=200, e=24, h=40):
            super().__init__()
            self.encoder = nn.Embedding(v, e)
            self.rnns = nn.ModuleList([nn.LSTM(e, h), nn.LSTM(h, h), nn.LSTM(h, e)])
            self.decoder = nn.Linear(e, v)
            self.decoder.weight = self.encoder.weight

        def forward(self, x):
            x = self.encoder(x)
            for rnn in self.rnns:
                x, _ = rnn(functional.dropout(x, 0.4, self.training))
            return self.decoder(x)

    return RNNModel()


@net(lambda: torch.randint(0, 500, (2, 20)), [["embedding"], ["convs"], ["fc"]], under="classifier")
def text_cnn():
    class TextCNN(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(500, 32, padding_idx=0)
            self.convs = nn.ModuleList(nn.Conv2d(1, 16, (k, 32)) for k in (2, 3, 4))
            self.fc = nn.Linear(48, 4)

        def forward(self, x):
            x = self.embedding(x).unsqueeze(1)
            x = [functional.relu(c(x)).squeeze(3).amax(2) for c in self.convs]
            return self.fc(torch.cat(x, 1))

    return TextCNN()


@net(lambda: (torch.randint(0, 1000, (30,)), torch.tensor([0, 10, 18])), [["embedding"], ["fc"]])
def ag_news_embedding_bag():
    class TextClassificationModel(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.EmbeddingBag(1000, 32)
            self.fc = nn.Linear(32, 4)

        def forward(self, text, offsets):
            return self.fc(self.embedding(text, offsets))

    return TextClassificationModel()


@net(lambda: torch.randint(0, 120, (2, 16)), [["embed"], *each("blocks.#", 4), ["out"]], under="lm")
def gated_conv_lm():
    class Block(nn.Module):
        def __init__(self, d, k=3):
            super().__init__()
            self.pad, self.conv, self.gate = k - 1, nn.Conv1d(d, d, k), nn.Conv1d(d, d, k)

        def forward(self, x):
            y = functional.pad(x, (self.pad, 0))
            return x + self.conv(y) * torch.sigmoid(self.gate(y))

    class GCNN(nn.Module):
        def __init__(self, d=24):
            super().__init__()
            self.embed, self.out = nn.Embedding(120, d), nn.Linear(d, 120)
            self.blocks = nn.ModuleList(Block(d) for _ in range(4))

        def forward(self, x):
            x = self.embed(x).transpose(1, 2)
            for b in self.blocks:
                x = b(x)
            return self.out(x.transpose(1, 2))

    return GCNN()


@net(
    lambda: torch.randn(2, 1, 320),
    [["encoder", "norm", "bottleneck"], *each("tcn.#", 3), ["tcn.3", "mask"], ["decoder"]],
)
def conv_tasnet_small():
    class TCNBlock(nn.Module):
        def __init__(self, d, h, dil):
            super().__init__()
            self.net = nn.Sequential(
                nn.Conv1d(d, h, 1),
                nn.PReLU(),
                nn.GroupNorm(1, h),
                nn.Conv1d(h, h, 3, padding=dil, dilation=dil, groups=h),
                nn.PReLU(),
                nn.GroupNorm(1, h),
                nn.Conv1d(h, d, 1),
            )

        def forward(self, x):
            return x + self.net(x)

    class TasNet(nn.Module):
        def __init__(self, n=32, d=16):
            super().__init__()
            self.encoder, self.norm = nn.Conv1d(1, n, 16, 8, bias=False), nn.GroupNorm(1, n)
            self.bottleneck = nn.Conv1d(n, d, 1)
            self.tcn = nn.Sequential(*[TCNBlock(d, 32, 2**i) for i in range(4)])
            self.mask = nn.Conv1d(d, 2 * n, 1)
            self.decoder = nn.ConvTranspose1d(n, 1, 16, 8, bias=False)

        def forward(self, x):
            w = self.encoder(x)
            m = torch.sigmoid(self.mask(self.tcn(self.bottleneck(self.norm(w)))))
            m = m.view(w.shape[0], 2, *w.shape[1:]) * w[:, None]
            return self.decoder(m.flatten(0, 1)).view(w.shape[0], 2, -1)

    return TasNet()


@net(
    lambda: torch.randn(2, 1, 8000),
    [["conv1", "bn1"], ["conv2", "bn2"], ["conv3", "bn3"], ["conv4", "bn4"], ["fc1"]],
    under="lit:net",
)
def speech_commands_m5():
    class M5(nn.Module):
        def __init__(self, c=16):
            super().__init__()
            self.conv1, self.bn1, self.pool1 = nn.Conv1d(1, c, 80, 16), nn.BatchNorm1d(c), nn.MaxPool1d(4)
            self.conv2, self.bn2, self.pool2 = nn.Conv1d(c, c, 3), nn.BatchNorm1d(c), nn.MaxPool1d(4)
            self.conv3, self.bn3, self.pool3 = nn.Conv1d(c, 2 * c, 3), nn.BatchNorm1d(2 * c), nn.MaxPool1d(2)
            self.conv4, self.bn4 = nn.Conv1d(2 * c, 2 * c, 3), nn.BatchNorm1d(2 * c)
            self.fc1 = nn.Linear(2 * c, 35)

        def forward(self, x):
            x = self.pool1(functional.relu(self.bn1(self.conv1(x))))
            x = self.pool2(functional.relu(self.bn2(self.conv2(x))))
            x = self.pool3(functional.relu(self.bn3(self.conv3(x))))
            x = functional.relu(self.bn4(self.conv4(x))).mean(-1)
            return functional.log_softmax(self.fc1(x), -1)

    return M5()


@net(lambda: torch.randn(2, 32, 20), [["layers.0"], ["layers.1"], ["layers.2"], ["proj"]], under="listener.model")
def pyramidal_listener():
    class PBLSTM(nn.Module):
        def __init__(self, i, h):
            super().__init__()
            self.blstm = nn.LSTM(i * 2, h, batch_first=True, bidirectional=True)

        def forward(self, x):
            b, t, f = x.shape
            return self.blstm(x.reshape(b, t // 2, f * 2))[0]

    class Listener(nn.Module):
        def __init__(self, h=16):
            super().__init__()
            self.layers = nn.ModuleList([PBLSTM(20, h), PBLSTM(2 * h, h), PBLSTM(2 * h, h)])
            self.proj = nn.Linear(2 * h, 30)

        def forward(self, x):
            for layer in self.layers:
                x = layer(x)
            return self.proj(x).log_softmax(-1)

    return Listener()


class Head(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        self.key, self.query, self.value = (nn.Linear(d, h, bias=False) for _ in range(3))

    def forward(self, x):
        t = x.shape[1]
        w = self.query(x) @ self.key(x).transpose(-2, -1) / math.sqrt(t)
        w = w.masked_fill(torch.ones(t, t, device=x.device).triu(1).bool(), float("-inf"))
        return w.softmax(-1) @ self.value(x)


class LectureBlock(nn.Module):
    def __init__(self, d, heads):
        super().__init__()
        self.heads = nn.ModuleList(Head(d, d // heads) for _ in range(heads))
        self.proj = nn.Linear(d, d)
        self.ffwd = nn.Sequential(nn.Linear(d, 4 * d), nn.ReLU(), nn.Linear(4 * d, d), nn.Dropout(0.1))
        self.ln1, self.ln2 = nn.LayerNorm(d), nn.LayerNorm(d)

    def forward(self, x):
        y = self.ln1(x)
        x = x + self.proj(torch.cat([h(y) for h in self.heads], -1))
        return x + self.ffwd(self.ln2(x))


class LectureGPT(nn.Module):
    def __init__(self, vocab, d, n, heads):
        super().__init__()
        self.token_embedding_table = nn.Embedding(vocab, d)
        self.position_embedding_table = nn.Embedding(32, d)
        self.blocks = nn.Sequential(*[LectureBlock(d, heads) for _ in range(n)])
        self.ln_f = nn.LayerNorm(d)
        self.lm_head = nn.Linear(d, vocab)

    def forward(self, idx, targets=None):
        x = self.token_embedding_table(idx) + self.position_embedding_table(
            torch.arange(idx.shape[1], device=idx.device)
        )
        logits = self.lm_head(self.ln_f(self.blocks(x)))
        return logits, None if targets is None else functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


LECTURE = [
    ["token_embedding_table", "position_embedding_table"],
    *each("blocks.#", 3),
    ["blocks.3", "ln_f"],
    ["lm_head"],
]
net(lambda: torch.randint(0, 65, (2, 16)), LECTURE, name="lecture_gpt_chars")(lambda: LectureGPT(65, 32, 4, 4))
net(lambda: torch.randint(0, 65, (2, 16)), LECTURE, name="lecture_gpt_bpe", under="model")(
    lambda: LectureGPT(5000, 16, 4, 2)
)
net(lambda: torch.randint(0, 65, (2, 16)), LECTURE, name="lecture_gpt_two_wrappers", under="policy.transformer")(
    lambda: LectureGPT(3000, 16, 4, 2)
)
