"""Slow, obvious twins: plain loops that say what the fast code means. One section for each theme."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import torch

# --- splits and cases -------------------------------------------------------------------------------------------------
# A log is a list of events (user, item, time, behaviour, part) in stored order; a label says where one went.

BEHAVIOURS = ("view", "cart", "purchase")


def dataset_of(rows, kind="timestamp", behaviours=True, parts=True):
    """Store events as a dataset does, by user, part, time and row; return a stand-in, and the log in that order."""
    log = sorted(rows, key=lambda event: (event[0], event[4] * parts, event[2] * (kind != "none")))
    users = max((event[0] for event in log), default=0)
    column = [np.array(values) for values in zip(*log, strict=True)] if log else [np.zeros(0, int)] * 5
    offsets = np.concatenate([[0, 0], np.cumsum(np.bincount(column[0], minlength=users + 1)[1:])]).astype(np.int64)
    dataset = SimpleNamespace(
        offsets=offsets,
        item=column[1].astype(np.int32),
        time=None if kind == "none" else column[2].astype(np.int64),
        behaviour=column[3].astype(np.uint8) + 1 if behaviours else None,  # 0 = not given
        behaviours=BEHAVIOURS if behaviours else (),
        part=column[4].astype(np.uint8) if parts else None,
        time_kind=kind,
        n_users=users,
        n_items=int(column[1].max(initial=0)),
        n_events=len(log),
        fingerprint="stand-in",
    )
    return dataset, [tuple(event) for event in log]


def split_labels(log, rule, targets=None):
    """Say of every event 'train', 'validation' or 'test', for the rules without chance; one user at a time."""
    labels = ["train"] * len(log)
    name, _, number = rule.partition(":")
    if name == "leave-one-out":
        for user in {event[0] for event in log}:
            mine = split_history(log, rule, user)
            wanted = [at for at, row in enumerate(mine) if targets is None or log[row][3] in targets]
            if len(wanted) >= 3:
                for at, row in enumerate(mine):
                    if at >= wanted[-2]:
                        labels[row] = "test" if at >= wanted[-1] else "validation"
        return labels
    times = sorted(event[2] for event in log)
    if name == "time":
        cut = times[math.ceil(round(float(number) * len(times), 6)) - 1]
        before = [time for time in times if time <= cut]
        earlier = before[math.ceil(round(0.9 * len(before), 6)) - 1]
    elif name == "last-days":
        cut = times[-1] - float(number) * 24 * 3600 * 10**6
        earlier = cut - float(number) * 24 * 3600 * 10**6
    else:
        assert name == "parts"
        before = sorted(event[2] for event in log if event[4] == 0)
        earlier = before[math.ceil(round(0.9 * len(before), 6)) - 1]
    for row, event in enumerate(log):
        late = event[4] == 1 if name == "parts" else event[2] > cut
        if late or event[2] > earlier:
            labels[row] = "test" if late else "validation"
    return labels


def split_history(log, rule, user):
    """The rows of a user's events, oldest first; given parts go before time under the rule `parts`."""
    rows = [row for row, event in enumerate(log) if event[0] == user]
    return rows if rule == "parts" else sorted(rows, key=lambda row: log[row][2] or 0)


def split_cases(log, labels, rule, part, targets="next", wanted=None):
    """All cases as (user, history rows, target rows), users ascending, oldest first."""
    cases = []
    for user in sorted({event[0] for event in log}):
        mine = split_history(log, rule, user)
        found = [row for row in mine if labels[row] == part and (wanted is None or log[row][3] in wanted)]
        if rule.startswith("random"):
            frozen = [row for row in mine if labels[row] == "train"]
        else:
            earlier = {"validation": ("train",), "test": ("train", "validation")}[part]
            frozen = [row for row in mine if labels[row] in earlier]
        if targets == "set":
            distinct, items = [], set()
            for row in found:
                if log[row][1] not in items:
                    items.add(log[row][1])
                    distinct.append(row)
            if found:
                cases.append((user, frozen, distinct))
            continue
        for row in found[-1:] if targets == "last" else found:
            before = mine[: mine.index(row)]
            cases.append((user, frozen if rule.startswith("random") else before, [row]))
    return cases


# --- attention ------------------------------------------------------------------------------------------------------


def attend_row_by_row(query, keys, values, *, query_offsets, key_offsets, causal=False, bias=None, normalize="softmax"):
    """Loop over rows and heads; returns values (Q, H, V) and per row weights (queries, keys, H)."""
    out, all_weights = [], []
    for row in range(len(query_offsets) - 1):
        q = query[query_offsets[row] : query_offsets[row + 1]]
        k = keys[key_offsets[row] : key_offsets[row + 1]]
        v = values[key_offsets[row] : key_offsets[row + 1]]
        per_head, weights = [], []
        for head in range(query.shape[1]):
            logits = q[:, head] @ k[:, head].T / query.shape[-1] ** 0.5
            if bias is not None:
                logits = logits + bias(torch.arange(len(q))[:, None], torch.arange(len(k))[None, :])[head]
            allowed = torch.ones(len(q), len(k), dtype=torch.bool)
            allowed = allowed.tril() if causal else allowed
            if normalize == "softmax":
                scores = logits.exp() * allowed
                share = scores / scores.sum(1, keepdim=True) if len(k) else scores
            else:
                share = logits if normalize == "none" else logits * torch.sigmoid(logits) / allowed.sum(1, keepdim=True)
                share = share * allowed
            per_head.append(share @ v[:, head])
            weights.append(share)
        out.append(torch.stack(per_head, 1))
        all_weights.append(torch.stack(weights, 2))
    return torch.cat(out), all_weights


# --- evaluation -------------------------------------------------------------------------------------------------------


def metric_of_case(name, ranks, k):
    """One metric of one case, from the ranks of all its targets, by walking down the list."""
    hits = [1 if place in ranks else 0 for place in range(1, k + 1)]
    if name == "recall":
        return sum(hits) / len(ranks)
    if name == "hit_rate":
        return float(any(hits))
    if name == "mrr":
        return next((1 / place for place, hit in enumerate(hits, 1) if hit), 0.0)
    assert name == "ndcg"
    gain = sum(hit / math.log2(place + 1) for place, hit in enumerate(hits, 1))
    return gain / sum(1 / math.log2(place + 1) for place in range(1, min(k, len(ranks)) + 1))


def mean_over_users(name, k, cases):
    """The mean over users of the mean over their cases; a case is (user, ranks), and without any rank it is out."""
    values = {}
    for user, ranks in cases:
        if ranks:
            values.setdefault(user, []).append(metric_of_case(name, ranks, k))
    means = [sum(mine) / len(mine) for mine in values.values()]
    return sum(means) / len(means) if means else None


# --- search and baselines ---------------------------------------------------------------------------------------------


def candidates_in_order(scores, known, excluded):
    """Item indexes of one row that are candidates, best first: known before unknown, by score, then by index."""
    places = [item for item in range(1, len(scores)) if item not in set(excluded)]
    return sorted(places, key=lambda item: (not known[item], -scores[item] if known[item] else 0, item))


def rank_among(target, scores, known, excluded, miss):
    """One and the number of other candidates that are as good as the target or better."""
    places = candidates_in_order(scores, known, excluded)
    if target not in places:
        return miss
    value = [scores[item] if known[item] else -math.inf for item in range(len(scores))]
    return 1 + sum(value[item] >= value[target] for item in places if item != target)


def repeat_scores(history, counts, decay, newest_only=False):
    """Own score of each past item, newest event at age 0."""
    own = {}
    for age, item in enumerate(reversed(history)):
        if not (newest_only and item in own):
            own[item] = own.get(item, 0.0) + (1 + age) ** -decay
    if decay == 0:
        own = {item: value + counts.get(item, 0) / (1 + sum(counts.values())) for item, value in own.items()}
    return own


def covisit_weights(sequences, window, directed, powers, most, by_distance=True):
    """Weights {item: {neighbour: weight}} from the item lists of all users, by looking at every pair of events."""
    events, pairs = {}, {}
    for sequence in sequences:
        for at, item in enumerate(sequence):
            events[item] = events.get(item, 0) + 1
            for other in range(at + 1, min(len(sequence), at + window + 1)):
                value = 1 / (other - at) if by_distance else 1.0
                both = [(item, sequence[other]), (sequence[other], item)]
                for a, b in both[:1] if directed else both:
                    row = pairs.setdefault(a, {})
                    row[b] = row.get(b, 0.0) + value
    kept = {}
    for a, row in pairs.items():
        weighted = {b: value / (events[a] ** powers[0] * events[b] ** powers[1]) for b, value in row.items()}
        best = sorted(weighted, key=lambda b: (-np.float32(weighted[b]), b))[:most]
        kept[a] = {b: weighted[b] for b in best}
    return kept


def covisit_scores(history, weights, decay, newest):
    """Own score of each item from the newest events of a history."""
    own = {}
    for age, item in enumerate(reversed(history[-newest:])):
        for neighbour, weight in weights.get(item, {}).items():
            own[neighbour] = own.get(neighbour, 0.0) + weight * (1 + age) ** -decay
    return own


# --- event logs -------------------------------------------------------------------------------------------------------
# A row is (user, item, time, behaviour, label, context, part) in file order; None = not given.


def histories(rows):
    """Group rows by user in order of first appearance; sort each group by part and time; ties stay in file order."""
    users = list(dict.fromkeys(row[0] for row in rows))
    mine = {user: [row for row in rows if row[0] == user] for user in users}
    return {user: sorted(own, key=lambda row: (row[6] or 0, row[2] or 0)) for user, own in mine.items()}


def repeats(rows, *fields):
    """Count the rows that have an earlier one of the same user and the same values in `fields`."""
    keys = [(row[0], *(row[field] for field in fields)) for row in rows]
    return sum(key in keys[:at] for at, key in enumerate(keys))


def ties(rows):
    """Count the rows that share user and time with another row."""
    keys = [(row[0], row[2]) for row in rows]
    return sum(keys.count(key) > 1 for key in keys)


# --- forms of attention -----------------------------------------------------------------------------------------------


def attend_query_by_query(logits, values, *, query_offsets, key_offsets, spans=None, causal=False, normalize="softmax"):
    """Attention from logits(query, key) -> (H,), both as places in the jagged tensors; one query at a time.

    Returns values (Q, H, V) and per row weights (queries, keys, H).
    """
    heads, out, all_weights = values.shape[1], [], []
    for row in range(len(query_offsets) - 1):
        first, end = int(key_offsets[row]), int(key_offsets[row + 1])
        weights = []
        for place, query in enumerate(range(int(query_offsets[row]), int(query_offsets[row + 1]))):
            start, stop = (0, end - first) if spans is None else spans[query].tolist()
            seen = [key for key in range(start, stop) if not causal or key <= place]
            share = values.new_zeros(end - first, heads)
            if seen:
                own = torch.stack([logits(query, first + key) for key in seen])
                if normalize == "silu":
                    own = own * torch.sigmoid(own) / len(seen)
                share = share.index_put((torch.tensor(seen),), own.softmax(0) if normalize == "softmax" else own)
            out.append(torch.einsum("kh,khv->hv", share, values[first:end]))
            weights.append(share)
        all_weights.append(torch.stack(weights) if weights else values.new_zeros(0, end - first, heads))
    return torch.stack(out) if out else values.new_zeros(0, *values.shape[1:]), all_weights


def activation_unit_logit(layers, activated, event, candidate):
    """What the activation unit says of one pair: layers are (weight, bias), all but the last activated."""
    state = torch.cat([event, candidate, event - candidate, event * candidate])
    for weight, bias in layers[:-1]:
        state = activated(weight @ state + bias)
    return layers[-1][0] @ state + layers[-1][1]


def assert_same(ours, theirs, tensors, **close):
    """Compare values, and gradients by `tensors`; a side that met no pair depends on nothing."""
    torch.testing.assert_close(ours, theirs, **close)
    towards = torch.randn_like(theirs)
    ours, theirs = (
        torch.autograd.grad(side, tensors, towards, allow_unused=True, materialize_grads=True)
        if side.requires_grad
        else [torch.zeros_like(tensor) for tensor in tensors]
        for side in (ours, theirs)
    )
    for got, want in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, want, **close)
