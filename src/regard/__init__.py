"""`regard`: a recommender built on attention."""
