"""One vision-language model: loaded, probed, read once and answered from."""
