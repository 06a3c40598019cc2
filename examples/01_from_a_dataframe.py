"""From a DataFrame to recommendations, on the embedded sample; takes seconds.

Run it with `python examples/01_from_a_dataframe.py`. The frame may come from pandas, polars or Arrow; here it is
pandas'. Everything lands in the folder `from-a-dataframe`.
"""

import regard

shop = regard.make_shop(users=200)  # a small generated shop; put your own log in its place
frame = shop.events.to_pandas()  # columns user, item, time and more, one row per event
small = regard.Settings.of(  # so that this takes seconds; without it, the defaults are for real logs
    {
        "model": {"width": 32, "attributes": ["category"]},
        "train": {"epochs": 5, "batch_tokens": 256, "learning_rate": 0.01, "threads": 1},
    }
)

# Five lines to the first recommendation. Columns with common names are recognised; `regard.Columns` names any others.
log = regard.EventLog.read(frame)
dataset = regard.Dataset.build(log, "from-a-dataframe/shop", shop.items)
run = regard.train(dataset, small, "from-a-dataframe/run")
recommender = regard.Recommender(run, dataset)
answer = recommender.recommend(user=frame["user"].iloc[0], k=3)

for item in answer.items:
    print(f"{item.score:6.3f}  {item.item:16} {item.title}")

# What was read, and what was refused?
print(f"\n{dataset.n_events:,} events of {dataset.n_users:,} users; refused: {log.report['refused'] or 'nothing'}")

# How good is that? The same protocol for the model and for every baseline, intervals over users.
found = regard.evaluate(run, baselines="all")
for name, result in {found.name: found.result, **found.baselines}.items():
    ndcg = result.metrics["ndcg@10"]
    print(f"{name:15} ndcg@10 {ndcg['value']:.3f}  ({ndcg['low']:.3f} to {ndcg['high']:.3f})")

# A history that belongs to nobody, with an id that nobody knows: it is skipped, and the answer says so.
answer = recommender.recommend(history=["tent-04", "no-such-item", "camera-02"], exclude=["tent-01"], k=3)
print("\nafter a tent and a camera:", ", ".join(item.title or item.item for item in answer.items))
print("notes:", *answer.notes)

# Items with similar vectors.
print("\nlike tent-04:", ", ".join(item.title or item.item for item in recommender.similar("tent-04", k=3).items))
