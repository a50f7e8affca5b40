"""Files to runs: which belong together, which step each holds, and what was recorded beside the weights."""
