"""What an answer is: refused, complied, broken; how likely; who agrees with whom."""
