"""How models are fitted under a protocol: baselines try a few choices, models learn; validation judges both."""
