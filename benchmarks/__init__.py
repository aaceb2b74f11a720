"""What steering costs: every figure is a ratio to one stock answer measured in the same run."""
