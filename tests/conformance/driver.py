"""One driver for every architecture: build it tiny, then hold the library's shortcuts against the plain way."""
