"""What is added to a model's states, how much and where."""
