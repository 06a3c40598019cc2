"""Settings are searched for: each trial is a training of its own, and validation judges it. Test is never looked at."""
