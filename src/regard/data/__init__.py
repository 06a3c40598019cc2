"""Events become histories."""
