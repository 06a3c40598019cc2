"""Recurrent encoders over jagged rows against PyTorch's modules, one sequence at a time."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence

from regard.config import ModelSettings
from regard.model.encoder import ENCODERS
from regard.model.recurrent import prefix_sums, run

WIDTH, HEADS = 6, 2
LENGTHS = st.lists(st.sampled_from([0, 1, 2, 3, 5, 11]), min_size=1, max_size=7)


def offsets_of(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


def events(lengths: list[int]) -> Tensor:
    return torch.randn(sum(lengths), WIDTH, dtype=torch.float64, requires_grad=True)


def equal_with_gradients(
    ours: Tensor, theirs: Tensor, shared: list[Tensor], own: Sequence[Tensor] = (), copies: Sequence[Tensor] = ()
) -> None:
    """Equal values, and gradients for what both read and for weights of ours and their copies."""
    torch.testing.assert_close(ours, theirs)
    towards = torch.randn_like(theirs)
    mine = torch.autograd.grad(ours, [*shared, *own], towards)
    other = torch.autograd.grad(theirs, [*shared, *copies], towards)
    for got, want in zip(mine, other, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("cell", [nn.GRU, nn.LSTM])
@examples(max_examples=10)
@given(lengths=LENGTHS, layers=st.sampled_from([1, 2]))
def test_run_is_one_row_after_the_other(cell: type[nn.GRU] | type[nn.LSTM], lengths: list[int], layers: int) -> None:
    torch.manual_seed(sum(lengths))
    network, x = cell(WIDTH, WIDTH, num_layers=layers).double(), events(lengths)
    if not sum(lengths):
        assert run(network, x, offsets_of(lengths)).shape == (0, WIDTH)
        return
    alone = torch.cat([network(row)[0] for row in x.split(lengths) if len(row)])
    equal_with_gradients(run(network, x, offsets_of(lengths)), alone, [x, *network.parameters()])


@pytest.mark.parametrize("cell", [nn.GRU, nn.LSTM])
def test_run_is_how_pytorch_runs_packed_rows(cell: type[nn.GRU] | type[nn.LSTM]) -> None:
    """In single precision, where PyTorch has another kernel."""
    lengths = [4, 9, 0, 1, 17, 5]
    network, x = cell(WIDTH, WIDTH, num_layers=2), events(lengths).detach().float().requires_grad_()
    rows = pack_sequence([row for row in x.split(lengths) if len(row)], enforce_sorted=False)
    outputs, sizes = pad_packed_sequence(network(rows)[0], batch_first=True)
    packed = torch.cat([row[:size] for row, size in zip(outputs, sizes.tolist(), strict=True)])
    equal_with_gradients(run(network, x, offsets_of(lengths)), packed, [x, *network.parameters()])


@examples(max_examples=10)
@given(LENGTHS)
def test_prefix_sums_are_cumulative_within_rows(lengths: list[int]) -> None:
    x = events(lengths)
    expected = torch.cat([row.cumsum(0) for row in x.split(lengths)])
    if sum(lengths):
        equal_with_gradients(prefix_sums(x, offsets_of(lengths)), expected, [x])
    else:
        assert prefix_sums(x, offsets_of(lengths)).shape == expected.shape


@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_recurrent_encoder_is_the_network_and_a_norm(name: str) -> None:
    model = ENCODERS[name](ModelSettings(width=WIDTH, blocks=2)).double().eval()
    network = {"gru": nn.GRU, "lstm": nn.LSTM}[name](WIDTH, WIDTH, num_layers=2, batch_first=True).double()
    network.load_state_dict(model.layers.state_dict())
    lengths = [4, 0, 1, 9]
    x = events(lengths)
    ours = model(x, offsets_of(lengths))[0]
    padded = nn.utils.rnn.pad_sequence(list(x.split(lengths)), batch_first=True)
    outputs = network(padded)[0]
    theirs = model.norm(torch.cat([outputs[row, :size] for row, size in enumerate(lengths)]))
    equal_with_gradients(ours, theirs, [x], [*model.layers.parameters()], [*network.parameters()])


@pytest.mark.parametrize("blocks", [1, 2])
def test_seq2seq_is_its_formula_on_padded_input(blocks: int) -> None:
    """Padded to one length, masks of causality and padding in PyTorch's own attention, sum over the prefix."""
    model = ENCODERS["seq2seq"](ModelSettings(width=WIDTH, heads=HEADS, blocks=blocks)).double().eval()
    reader, writer = (nn.LSTM(WIDTH, WIDTH, num_layers=blocks, batch_first=True).double() for _ in range(2))
    reader.load_state_dict(model.reader.state_dict())
    writer.load_state_dict(model.writer.state_dict())
    attention = nn.MultiheadAttention(WIDTH, HEADS, bias=False, batch_first=True, dtype=torch.float64)
    attention.load_state_dict(
        {"in_proj_weight": model.attention.project.weight, "out_proj.weight": model.attention.join.weight}
    )
    lengths, longest = [7, 1, 0, 4], 9
    x = events(lengths)
    theirs, shares = [], []
    for row in x.split(lengths):
        if not len(row):
            continue
        padded = torch.cat([row, row.new_zeros(longest - len(row), WIDTH)])[None]
        encoded, _ = reader(padded)
        decoded, _ = writer(encoded)  # its state starts from zeros, not from the encoder's
        future = torch.ones(longest, longest, dtype=torch.bool).triu(1)
        mixed, weights = attention(decoded, decoded, decoded, attn_mask=future, average_attn_weights=False)
        theirs.append(mixed[0].cumsum(0)[: len(row)])
        shares.append(weights[0, :, : len(row), : len(row)].permute(1, 2, 0))
    ours, (weights,) = model(x, offsets_of(lengths), return_weights=True)
    for got, want in zip([row for row in weights if row.numel()], shares, strict=True):
        torch.testing.assert_close(got, want)
    expected, originals = model.norm(torch.cat(theirs)), [*model.reader.parameters(), *model.writer.parameters()]
    equal_with_gradients(ours, expected, [x], originals, [*reader.parameters(), *writer.parameters()])


def test_half_precision_keeps_what_a_long_history_adds() -> None:
    x = torch.full((2000, 1), 0.1, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        sums = prefix_sums(x, offsets_of([2000]))
    torch.testing.assert_close(sums[:, 0], torch.arange(1, 2001) * float(x[0, 0]), rtol=1e-4, atol=1e-4)
