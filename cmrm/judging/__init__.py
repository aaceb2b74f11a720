"""What an answer is: refused, complied, broken; how likely, how fluent."""
